package files

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"

	"callbox.dev/guest/operation"
)

// moved is the reply of reads and writes.
type moved struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func read(stream operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		located
		Offset int64
		Length *int64
	}{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	if wanted.Offset < 0 || wanted.Length != nil && *wanted.Length < 0 {
		return nil, operation.Fail("bad_request", "offset and length are not negative")
	}
	at, err := current().open(wanted.Path, wanted.As)
	if err != nil {
		return nil, err
	}
	defer at.close()
	file, err := at.read()
	if err != nil {
		return nil, failure(wanted.Path, err)
	}
	defer file.Close()
	left := int64(-1)
	if wanted.Length != nil {
		left = *wanted.Length
	}
	sent, err := sendFile(stream, file, wanted.Offset, left)
	if err != nil {
		return nil, failure(wanted.Path, err)
	}
	return sent, nil
}

// sendFile sends from an offset on; left < 0 means to the end, which files of /proc only tell by ending.
func sendFile(stream operation.Stream, file *os.File, offset, left int64) (moved, error) {
	digest := sha256.New()
	buffer := make([]byte, chunkBytes)
	total := int64(0)
	if offset > 0 {
		if _, err := file.Seek(offset, io.SeekStart); err != nil {
			return moved{}, err
		}
	}
	for left != 0 {
		if err := stream.Context().Err(); err != nil {
			return moved{}, err
		}
		part := buffer
		if left > 0 && left < int64(len(part)) {
			part = part[:left]
		}
		count, err := file.Read(part)
		if count > 0 {
			digest.Write(part[:count])
			if err := stream.Send(operation.Body, part[:count]); err != nil {
				return moved{}, err
			}
			total += int64(count)
			if left > 0 {
				left -= int64(count)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return moved{}, err
		}
	}
	if err := stream.End(); err != nil {
		return moved{}, err
	}
	return moved{total, hex.EncodeToString(digest.Sum(nil))}, nil
}
