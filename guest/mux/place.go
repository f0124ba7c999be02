package mux

import "callbox.dev/guest/wire"

// place knows whether what is decoded is what the host wrote as frames. A host that dies while it sends leaves a torn
// frame, and a payload is anybody's: what looks like frames in it must not be obeyed. So after a byte that was no frame
// nothing is believed but a HELLO behind more zeros than any payload can hold together with one.
type place struct {
	skipped uint64
	lost    bool
}

// believes says whether `frame`, which `from` has just returned, is to be obeyed.
func (p *place) believes(from *wire.Decoder, frame wire.Frame) bool {
	if from.Skipped != p.skipped {
		p.skipped, p.lost = from.Skipped, true
	}
	if p.lost && frame.Type == wire.Hello && frame.Stream == 0 && from.Zeros >= wire.ZerosLeast {
		p.lost = false
	}
	return !p.lost
}
