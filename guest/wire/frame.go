// Package wire reads and writes the frames of docs/guest-protocol.md.
package wire

import (
	"encoding/binary"
	"hash/crc32"
)

// The sizes of a frame.
const (
	HeaderBytes  = 20
	PayloadMax   = 65536
	FrameMax     = HeaderBytes + PayloadMax
	ZerosLeast   = PayloadMax   // before the HELLO that an acceptor believes after bytes that were no frame
	ZerosSent    = 2 * FrameMax // by an opener: what a torn frame, or one inside of it, does not swallow is enough
	magic        = 0xCA11B0C5
	checkedBytes = 16 // of the header; the checksum itself follows
)

// Type says what a frame is for.
type Type uint8

// The types of the protocol, version 1.
const (
	Hello   Type = 1
	Welcome Type = 2
	Open    Type = 3
	Data    Type = 4
	Event   Type = 5
	Eof     Type = 6
	Close   Type = 7
	Cancel  Type = 8
	Window  Type = 9
	Ping    Type = 10
	Pong    Type = 11
)

// Frame is one frame. The payload of a decoded one is valid until the next is decoded.
type Frame struct {
	Type    Type
	Channel uint8
	Stream  uint32
	Payload []byte
}

// Append adds the encoded frame to `to`. It panics if the payload is larger than PayloadMax: callers split.
func Append(to []byte, f Frame) []byte {
	if len(f.Payload) > PayloadMax {
		panic("wire: payload larger than a frame")
	}
	var header [HeaderBytes]byte
	binary.BigEndian.PutUint32(header[0:], magic)
	header[4] = byte(f.Type)
	header[5] = f.Channel
	binary.BigEndian.PutUint32(header[8:], f.Stream)
	binary.BigEndian.PutUint32(header[12:], uint32(len(f.Payload)))
	sum := crc32.Update(crc32.ChecksumIEEE(header[:checkedBytes]), crc32.IEEETable, f.Payload)
	binary.BigEndian.PutUint32(header[16:], sum)
	return append(append(to, header[:]...), f.Payload...)
}
