package hypervisor

import (
	"context"
	"strings"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/policy"
)

// quarantine.go: agents that may only read for a time, and what that time ends in (SPEC §3 "Quarantine"). It stands in the agent's
// stream, whose deadline is its end.

// Quarantine lets an agent only read, in every session, from its next command on; or extends a quarantine that is in force. An
// operator's.
func (hv *Hypervisor) Quarantine(ctx context.Context, caller policy.Caller, did policy.DID, c agent.EnterQuarantine) (policy.Decision, error) {
	return hv.enterAgent(ctx, caller, did, c)
}

// Release ends an agent's quarantine before its time. An operator's.
func (hv *Hypervisor) Release(ctx context.Context, caller policy.Caller, did policy.DID, c agent.EndQuarantine) (policy.Decision, error) {
	return hv.enterAgent(ctx, caller, did, c)
}

// armAgent sets the timer of an agent whose stream wants to be looked at.
func (hv *Hypervisor) armAgent(head eventlog.Head) {
	if strings.HasPrefix(head.Stream, audit.AgentPrefix) {
		hv.timers.Set(head.Stream, head.Deadline)
	}
}

// tickAgent lets time end an agent's quarantine; one whose time kills is ended by the kill, so that there is no moment between.
func (hv *Hypervisor) tickAgent(ctx context.Context, did policy.DID) {
	err := hv.endQuarantine(ctx, did)
	if err == nil || hv.closing.Load() {
		return
	}
	hv.opts.Logger.Warn("the end of a quarantine could not be recorded; it is tried again", "agent", did, "error", err)
	hv.later(settleRetry, func(ctx context.Context) { hv.tickAgent(ctx, did) })
}

func (hv *Hypervisor) endQuarantine(ctx context.Context, did policy.DID) error {
	handles, err := hv.agents.know(ctx, did)
	if err != nil {
		return err
	}
	q := handles[0].standing.Load().Quarantine
	if q == nil {
		return nil
	}
	if hv.opts.Clock.Now().Before(q.Until) { // it was extended
		hv.timers.Set(audit.AgentPrefix+string(did), q.Until)
		return nil
	}
	if q.Kills {
		k := policy.Kill{Scope: policy.Scope{Agent: did}, Reason: policy.ForQuarantineTimeout, Note: clip(strings.Join(q.Reasons, "; "), policy.MaxNoteBytes)}
		if _, err := hv.Kill(ctx, policy.System, k); err != nil {
			return err
		}
	}
	_, err = hv.agents.submit(ctx, policy.System, did, agent.Tick{})
	return err
}

// clip cuts a text to so many bytes.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}
