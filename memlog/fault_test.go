package memlog_test

import (
	"context"
	"errors"
	"testing"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
	"github.com/agenthypervisor/hypervisor/memlog"
)

func TestFaults(t *testing.T) {
	sites := []eventlogtest.Site{{Name: "append", Lost: eventlogtest.Refused, Persisted: eventlogtest.UnknownThere}}
	eventlogtest.Faults(t, sites, func(t *testing.T) eventlogtest.Faulty {
		f := &faulty{Store: memlog.New()}
		return eventlogtest.Faulty{
			Open: func(testing.TB) eventlog.Store { f.Store = f.Store.Reopen(); return f },
			Arm:  func(_ string, persisted bool) { f.armed, f.persisted, f.struck = true, persisted, false },
			Hit:  func() bool { f.armed = false; return f.struck },
		}
	})
}

// A faulty store loses an Append, or does it and does not say so.
type faulty struct {
	*memlog.Store
	armed, persisted, struck bool
}

func (f *faulty) Append(ctx context.Context, recs []eventlog.Append) []error {
	if !f.armed {
		return f.Store.Append(ctx, recs)
	}
	f.armed, f.struck = false, true
	err := errors.New("injected fault")
	if f.persisted {
		f.Store.Append(ctx, recs)
		err = eventlog.ErrUnknown
	}
	errs := make([]error, len(recs))
	for i := range errs {
		errs[i] = err
	}
	return errs
}
