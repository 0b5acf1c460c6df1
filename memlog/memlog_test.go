package memlog_test

import (
	"testing"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
	"github.com/agenthypervisor/hypervisor/memlog"
)

func TestContract(t *testing.T) {
	stores := map[string]*memlog.Store{}
	eventlogtest.Run(t, func(_ testing.TB, dir string) eventlog.Store {
		if s, ok := stores[dir]; ok {
			stores[dir] = s.Reopen()
		} else {
			stores[dir] = memlog.New()
		}
		return stores[dir]
	})
}
