package wire

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// bufferBytes holds the largest frame and leaves room to read ahead of it.
const bufferBytes = 2 * FrameMax

var magicBytes = binary.BigEndian.AppendUint32(nil, magic)

// Decoder takes frames out of a byte stream. What belongs to no frame is skipped, byte by byte, and counted.
type Decoder struct {
	from    io.Reader
	buffer  []byte
	start   int // of what is not yet decoded
	end     int
	run     int // zero bytes skipped since the last other byte
	Skipped uint64
	Zeros   int // skipped directly before the frame that was returned last
}

// NewDecoder reads from `from`. It holds one buffer of a fixed size, whatever comes.
func NewDecoder(from io.Reader) *Decoder {
	return &Decoder{from: from, buffer: make([]byte, bufferBytes)}
}

// Pending is how many bytes were read that could still be the beginning of a frame.
func (d *Decoder) Pending() int { return d.end - d.start }

// Next returns the next frame that holds, or the error of the reader (io.EOF also in the middle of a frame).
func (d *Decoder) Next() (Frame, error) {
	for {
		frame, ok := d.take()
		if ok {
			return frame, nil
		}
		if d.start > 0 && d.end == len(d.buffer) {
			d.end = copy(d.buffer, d.buffer[d.start:d.end])
			d.start = 0
		}
		n, err := d.from.Read(d.buffer[d.end:])
		d.end += n
		if n == 0 && err != nil {
			return Frame{}, err
		}
	}
}

// take decodes one frame from the buffer; false: more bytes are needed.
func (d *Decoder) take() (Frame, bool) {
	for {
		d.seek()
		rest := d.buffer[d.start:d.end]
		if len(rest) < HeaderBytes {
			if len(rest) == 0 {
				d.start, d.end = 0, 0
			}
			return Frame{}, false
		}
		length := binary.BigEndian.Uint32(rest[12:])
		if length > PayloadMax || rest[6] != 0 || rest[7] != 0 {
			d.skip(1)
			continue
		}
		if len(rest) < HeaderBytes+int(length) {
			return Frame{}, false
		}
		payload := rest[HeaderBytes : HeaderBytes+int(length)]
		sum := crc32.Update(crc32.ChecksumIEEE(rest[:checkedBytes]), crc32.IEEETable, payload)
		if sum != binary.BigEndian.Uint32(rest[checkedBytes:]) {
			d.skip(1)
			continue
		}
		d.start += HeaderBytes + int(length)
		d.Zeros, d.run = d.run, 0
		return Frame{Type(rest[4]), rest[5], binary.BigEndian.Uint32(rest[8:]), payload}, true
	}
}

// seek moves to the next place where a magic is, or could be once more bytes arrive.
func (d *Decoder) seek() {
	rest := d.buffer[d.start:d.end]
	if bytes.HasPrefix(rest, magicBytes) {
		return
	}
	if at := bytes.Index(rest, magicBytes); at >= 0 {
		d.skip(at)
		return
	}
	kept := min(len(rest), len(magicBytes)-1)
	for kept > 0 && !bytes.HasPrefix(magicBytes, rest[len(rest)-kept:]) {
		kept--
	}
	d.skip(len(rest) - kept)
}

func (d *Decoder) skip(n int) {
	skipped := d.buffer[d.start : d.start+n]
	others := len(bytes.TrimRight(skipped, "\x00"))
	if others > 0 {
		d.run = 0
	}
	d.run += n - others
	d.start += n
	d.Skipped += uint64(n)
}
