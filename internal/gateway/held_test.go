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

// A duration is written over MCP as it is everywhere else.
func TestAnUndosTimeIsWrittenAsEverywhere(t *testing.T) {
	for since, want := range map[string]time.Duration{"10m": 10 * time.Minute, "2d": 48 * time.Hour} {
		if r, err := undoRequest([]byte(`{"since":"` + since + `"}`)); err != nil || r.Since != want {
			t.Errorf("%s: %v, %v", since, r.Since, err)
		}
	}
	for _, bad := range []string{"-1h", "0s", "1", "2d-1h", "∞"} {
		if r, err := undoRequest([]byte(`{"since":"` + bad + `"}`)); err == nil {
			t.Errorf("%s: %v", bad, r.Since)
		}
	}
}
