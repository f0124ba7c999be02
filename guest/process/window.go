package process

const (
	windowBytes = 1 << 20
	windowsMax  = 16 // at once in the whole agent; without one a reader reads the file
)

var windowsInUse = make(chan struct{}, windowsMax)

// window is the latest output of a ring in memory, for readers that keep up: they need not read the file back, and each
// system call is dear in gVisor. It exists only while somebody reads; the file has it all.
type window struct {
	bytes   []byte // offset o is at o % windowBytes
	from    int64  // the lowest offset in it
	readers int
}

// attach says that somebody reads; detach must follow.
func (r *ring) attach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent.readers++
}

func (r *ring) detach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent.readers--
	if r.recent.readers == 0 && r.recent.bytes != nil {
		r.recent = window{}
		<-windowsInUse
	}
}

// remember keeps what was just written at `offset`. Called with the lock held.
func (w *window) remember(p []byte, offset int64) {
	if w.bytes == nil {
		if w.readers == 0 {
			return
		}
		select {
		case windowsInUse <- struct{}{}:
		default:
			return
		}
		w.bytes, w.from = make([]byte, windowBytes), offset
	}
	end := offset + int64(len(p))
	if len(p) > windowBytes {
		p = p[len(p)-windowBytes:]
	}
	at := (end - int64(len(p))) % windowBytes
	n := copy(w.bytes[at:], p)
	copy(w.bytes, p[n:])
	w.from = max(w.from, end-windowBytes)
}

// forget says that what ends at `offset` was lost. Called with the lock held.
func (w *window) forget(offset int64) { w.from = offset }

// has says whether the byte at `offset`, which was written, is here. Called with the lock held.
func (w *window) has(offset int64) bool { return w.bytes != nil && offset >= w.from }

// copyTo copies as much as lies in one piece. Called with the lock held.
func (w *window) copyTo(p []byte, offset int64) int { return copy(p, w.bytes[offset%windowBytes:]) }
