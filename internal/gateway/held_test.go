//go:build unix

package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
)

// Who is in quarantine is told so, and until when, by the tool that it is told to call when it is refused.
func TestAnAgentIsToldOfItsQuarantine(t *testing.T) {
	hv, s := newSession(t, "0.80")
	cs := governed(t, hv, s, "sdk", nil)
	if is := answerOf[Status](t, cs, statusTool, `{}`); is.Until != nil {
		t.Errorf("quarantined until %s before it is", is.Until)
	}
	if d, err := hv.Quarantine(t.Context(), policy.Operator("did:mesh:admin"), agentDID, agent.EnterQuarantine{Reason: policy.Manual, For: time.Hour}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	if is := answerOf[Status](t, cs, statusTool, `{}`); is.Until == nil {
		t.Error("its quarantine is not told")
	}
}

// A call that comes after a lift and before the server is back is told to come again.
func TestAServerThatAKillStoppedSaysThatItComesBack(t *testing.T) {
	u := NewUpstream("up", Command{}, nil)
	u.setDown(errBarred, time.Time{})
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.whyDown(); !strings.HasSuffix(err.Error(), "server up: it was stopped by a kill and is started again once that is lifted; try again in a moment") {
		t.Error(err)
	}
}
