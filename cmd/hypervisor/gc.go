package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gcPercent lets the heap grow to five times what lives before it is collected. A hypervisor's state is small, 24 MiB for ten
// thousand loaded sessions, and what a call leaves behind is much: at Go's 100 a fifth of the processor goes into collecting.
const gcPercent = 400

// tuned is set by who knows better than gc.go.
var tuned = os.Getenv("GOGC") != ""

func init() { // before anything allocates
	if !tuned {
		debug.SetGCPercent(gcPercent)
	}
}

// When memory is given back.
const (
	quietFor   = 5 * time.Second // it is looked so often whether
	quietBytes = 1 << 20         // at most so many bytes were allocated since the last look
	worthBytes = 8 << 20         // and at least so many since memory was given back last
)

// A hush finds out when a process that had much to do has nothing to do any more. The zero hush has seen nothing.
type hush struct{ seen, given uint64 }

// falls reports, by how many bytes were allocated so far, whether memory is to be given back.
func (h *hush) falls(allocated uint64) bool {
	quiet := allocated-h.seen <= quietBytes
	h.seen = allocated
	if !quiet || allocated-h.given < worthBytes {
		return false
	}
	h.given = allocated
	return true
}

// giveBack returns to the machine what calls have left behind, whenever there is nothing to do, until ctx ends. A heap that may
// grow to five times what lives is not collected for minutes then, and most of it not given back
// (docs/decisions/035-what-an-idle-agent-costs.md).
func giveBack(ctx context.Context) {
	var h hush
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(quietFor):
		}
		metrics.Read(sample)
		if !tuned && h.falls(sample[0].Value.Uint64()) {
			debug.FreeOSMemory()
			debug.FreeOSMemory() // each collection halves a stack once
		}
	}
}
