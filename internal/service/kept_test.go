package service

import (
	"testing"
	"time"
)

// What is over goes first; only when nothing is, something that is still good goes.
func TestNoMoreIsRememberedThanTheBound(t *testing.T) {
	now := time.Unix(0, 0)
	s, err := New("test", Options{URL: "http://127.0.0.1", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	k := NewKept[int, string](s)
	for i := range maxKept {
		k.Keep(i, "said")
		if i == maxKept/2-1 {
			now = now.Add(DefaultKeep / 2)
		}
	}
	k.Keep(0, "said anew")
	if said, ok := k.Said(1); !ok || said != "said" || len(k.said) != maxKept {
		t.Errorf("%q, %t; %d of %d are remembered", said, ok, len(k.said), maxKept)
	}
	now = now.Add(DefaultKeep / 2) // the first half is over, but for what was said anew
	k.Keep(maxKept, "said")
	if said, ok := k.Said(0); !ok || said != "said anew" || len(k.said) != maxKept/2+2 {
		t.Errorf("%q, %t; %d are remembered, want what is still good: %d", said, ok, len(k.said), maxKept/2+2)
	}
	const more = maxKept/2 + 100
	for i := range more {
		k.Keep(-1-i, "newer")
	}
	if _, ok := k.Said(-more); !ok || len(k.said) != maxKept {
		t.Errorf("the newest is there: %t; %d are remembered, want %d", ok, len(k.said), maxKept)
	}
}

func TestWhatFailedIsKnownForAsLongAsAServiceIsLeftAlone(t *testing.T) {
	for keep, want := range map[time.Duration]time.Duration{time.Hour: BreakFor, time.Second: time.Second} {
		now := time.Unix(0, 0)
		s, err := New("test", Options{URL: "http://127.0.0.1", Keep: keep, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		k := NewKept[int, bool](s)
		k.KeepUntilRetry(1, true)
		now = now.Add(want - 1)
		if said, ok := k.Said(1); !said || !ok {
			t.Errorf("kept %v: gone before its time", keep)
		}
		now = now.Add(1)
		if _, ok := k.Said(1); ok {
			t.Errorf("kept %v: still there after %v", keep, want)
		}
	}
}
