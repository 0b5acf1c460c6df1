package main

import "testing"

func TestMemoryIsGivenBackOnceAfterMuchWasDoneAndNothingIsDone(t *testing.T) {
	var h hush
	at := uint64(0)
	for i, look := range []struct {
		allocated uint64
		falls     bool
	}{
		{worthBytes, false},     // busy
		{4 * worthBytes, false}, // still
		{quietBytes, true},
		{0, false}, // once
		{quietBytes, false},
		{worthBytes - quietBytes - 1, false}, // busy again
		{1, true},
		{quietBytes + 1, false},
		{0, false}, // not worth it
	} {
		at += look.allocated
		if got := h.falls(at); got != look.falls {
			t.Errorf("look %d: %v", i, got)
		}
	}
}
