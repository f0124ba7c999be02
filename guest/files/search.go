package files

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"syscall"
	"unicode/utf8"

	"callbox.dev/guest/operation"
)

const (
	// lineScanBytes of a line are searched; a line may be as long as the disk.
	lineScanBytes = 256 << 10
	// binaryBytes from the beginning decide whether a file is text: no NUL in them.
	binaryBytes  = 8 << 10
	batchMatches = 64
)

type match struct {
	Path       string `json:"path"`
	PathBase64 string `json:"path_base64,omitempty"`

	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"text"`
}

type matchesEvent struct {
	Event   string  `json:"event"`
	Matches []match `json:"matches"`
}

type searchRequest struct {
	located
	Pattern      string
	Glob         *string
	MatchesMax   int `json:"matches_max"`
	LineBytesMax int `json:"line_bytes_max"`
}

// searcher looks for one pattern in the files of a tree.
type searcher struct {
	stream  operation.Stream
	wanted  searchRequest
	pattern *regexp.Regexp
	at      *place
	reader  *bufio.Reader
	pending []match
	count   int
	files   int
}

func search(stream operation.Stream, request json.RawMessage) (any, error) {
	s := &searcher{stream: stream, reader: bufio.NewReaderSize(nil, chunkBytes)}
	if err := decode(request, &s.wanted); err != nil {
		return nil, err
	}
	if err := bounded("matches_max", &s.wanted.MatchesMax, matchesDefault, matchesMost); err != nil {
		return nil, err
	}
	if err := bounded("line_bytes_max", &s.wanted.LineBytesMax, lineBytesDefault, lineBytesMost); err != nil {
		return nil, err
	}
	if len(s.wanted.Pattern) > patternBytesMax {
		return nil, operation.Fail("bad_request", "a pattern has at most 4096 bytes")
	}
	compiled, err := regexp.Compile(s.wanted.Pattern)
	if err != nil {
		return nil, operation.Fail("bad_request", err.Error())
	}
	s.pattern = compiled
	chosen := func(string) bool { return true }
	if s.wanted.Glob != nil && *s.wanted.Glob != "" {
		if chosen, err = chooser(*s.wanted.Glob); err != nil {
			return nil, err
		}
	}
	at, err := current().open(s.wanted.Path, s.wanted.As)
	if err != nil {
		return nil, err
	}
	defer at.close()
	s.at = at
	err = s.run(chosen)
	truncated := errors.Is(err, errEnough)
	if truncated {
		err = nil
	}
	if err == nil {
		err = s.flush()
	}
	if err != nil {
		return nil, failure(s.wanted.Path, err)
	}
	return struct {
		countReply
		Files int `json:"files"`
	}{countReply{s.count, truncated}, s.files}, nil
}

// chooser makes a glob that has no slash one for names, like "*.py", and another one for paths.
func chooser(pattern string) (func(string) bool, error) {
	compiled, err := compileGlob(pattern)
	if err != nil {
		return nil, err
	}
	if strings.Contains(pattern, "/") || pattern == "**" {
		return compiled.matches, nil
	}
	return func(relative string) bool { return compiled.matches(path.Base(relative)) }, nil
}

// run searches the place itself if it is a file, else everything beneath.
func (s *searcher) run(chosen func(string) bool) error {
	file, err := s.at.read()
	if err == nil {
		return s.file(file, s.at.name(s.at.path))
	}
	if !errors.Is(err, syscall.EISDIR) {
		return err
	}
	w := &walker{stream: s.stream, at: s.at, descend: func(item) bool { return true }}
	w.visit = func(found item) error {
		if !found.status.isFile() || !chosen(found.relative) {
			return nil
		}
		var file *os.File
		err := s.at.as.do(func() error {
			opened, err := found.in.regular(found.status.name)
			file = opened
			return err
		})
		if err != nil {
			// Gone, swapped, or not ours to read: what is left is still wanted.
			return nil
		}
		return s.file(file, s.at.name(path.Join(s.at.path, found.relative)))
	}
	return w.walk()
}

// file searches one file line by line and closes it. Memory does not depend on its lines' lengths.
func (s *searcher) file(file *os.File, name string) error {
	defer file.Close()
	s.reader.Reset(file)
	head, err := s.reader.Peek(binaryBytes)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return ignoreUnreadable(err)
	}
	if bytes.IndexByte(head, 0) >= 0 {
		return nil
	}
	s.files++
	var line []byte
	for number := 1; ; {
		if err := s.stream.Context().Err(); err != nil {
			return err
		}
		part, err := s.reader.ReadSlice('\n')
		if room := lineScanBytes - len(line); room > 0 {
			line = append(line, part[:min(room, len(part))]...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return ignoreUnreadable(err)
		}
		if err == nil || len(line) > 0 {
			if failed := s.line(name, number, bytes.TrimRight(line, "\r\n")); failed != nil {
				return failed
			}
		}
		if err != nil {
			return nil
		}
		line = line[:0]
		number++
	}
}

func ignoreUnreadable(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return nil
	}
	return err
}

func (s *searcher) line(name string, number int, line []byte) error {
	found := s.pattern.FindIndex(line)
	if found == nil {
		return nil
	}
	if s.count >= s.wanted.MatchesMax {
		return errEnough
	}
	s.count++
	text := excerpt(line, found[0], s.wanted.LineBytesMax)
	if !fits(text) {
		text = excerpt(line, found[0], textSafeBytes)
	}
	s.pending = append(s.pending, match{
		Path: name,

		PathBase64: encoded(name),
		Line:       number,
		Column:     utf8.RuneCount(line[:found[0]]) + 1,
		Text:       text,
	})
	if len(s.pending) < batchMatches {
		return nil
	}
	return s.flush()
}

func (s *searcher) flush() error {
	if len(s.pending) == 0 {
		return nil
	}
	full := s.pending
	s.pending = nil
	return tell(s.stream, full, func(some []match) any { return matchesEvent{"matches", some} })
}

// excerpt cuts a long line so that the match is in what is left, at characters' bounds.
func excerpt(line []byte, match, most int) string {
	if len(line) <= most {
		return strings.ToValidUTF8(string(line), "\ufffd")
	}
	start := 0
	if match > most*3/4 {
		start = min(match-most/4, len(line)-most)
	}
	end := start + most
	for start > 0 && start < end && !utf8.RuneStart(line[start]) {
		start++
	}
	for end < len(line) && end > start && !utf8.RuneStart(line[end]) {
		end--
	}
	return strings.ToValidUTF8(string(line[start:end]), "\ufffd")
}
