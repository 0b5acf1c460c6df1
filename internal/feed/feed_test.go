package feed_test

import (
	"testing"

	"github.com/agenthypervisor/hypervisor/internal/feed"
)

func passed(more <-chan struct{}) bool {
	select {
	case <-more:
		return true
	default:
		return false
	}
}

func TestWhoWaitsIsToldThatTheLogHasGrown(t *testing.T) {
	f := feed.New()
	one, other := f.More(), f.More()
	if f.Step(t.Context()) || passed(one) {
		t.Fatal("told before it has")
	}
	f.Grew()
	if !f.Step(t.Context()) || !passed(one) || !passed(other) {
		t.Fatal("not told")
	}
	if more := f.More(); f.Step(t.Context()) || passed(more) {
		t.Fatal("told again")
	}
}

// A follower calls More before it reads the log: what came before that it reads.
func TestNobodyIsWokenWhereNobodyWaits(t *testing.T) {
	f := feed.New()
	f.Grew()
	if f.Step(t.Context()) {
		t.Fatal("there was something to pass on")
	}
	more := f.More()
	f.Grew()
	if !f.Step(t.Context()) || !passed(more) {
		t.Fatal("who waits since then was not told")
	}
}
