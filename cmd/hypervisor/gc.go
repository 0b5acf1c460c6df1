package main

import (
	"os"
	"runtime/debug"
)

// gcPercent lets the heap grow to five times what lives before it is collected. A hypervisor's state is small, 24 MiB for ten
// thousand loaded sessions, and what a call leaves behind is much: at Go's 100 a fifth of the processor goes into collecting.
const gcPercent = 400

func init() { // before anything allocates; whoever sets GOGC knows better
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
