package hypervisor_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

func TestTokenCountsUntilItExpiresOrIsRevokedAcrossRestarts(t *testing.T) {
	ctx, store, clock := context.Background(), newKept(), hypervisortest.NewClock()
	hv := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock})
	s := hypervisortest.Session(t, hv, nil, oneAgent())
	tk := system.Token{ID: "tok-1", Hash: [32]byte{1}, Subject: ann, Role: policy.AgentRole, Session: s.ID(), Expires: clock.Now().Add(time.Hour)}
	if d, err := hv.IssueToken(ctx, admin, tk); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	again := hypervisortest.Open(t, &hypervisor.Options{Store: store, Clock: clock, Random: hypervisortest.NewSeeded(2)})
	if got, ok := again.Token(tk.Hash); !ok || got.Subject != ann {
		t.Errorf("after a restart: %+v, %v", got, ok)
	}
	clock.Advance(2 * time.Hour)
	if _, ok := again.Token(tk.Hash); ok {
		t.Error("an expired token counts")
	}
	tk.ID, tk.Hash, tk.Expires = "tok-2", [32]byte{2}, clock.Now().Add(time.Hour)
	if d, err := again.IssueToken(ctx, admin, tk); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	if d, err := again.RevokeToken(ctx, admin, "tok-2"); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	if _, ok := again.Token(tk.Hash); ok {
		t.Error("a revoked token counts")
	}
}

func oneAgent() map[policy.DID]string { return map[policy.DID]string{bob: "0.80"} }

// docs/contract.md: a call on an alias whose session has ended opens its successor with the same config, as a record.
func TestAliasOfAnEndedSessionOpensItsSuccessor(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	if d, err := hv.SetSigma(ctx, admin, ann, ring.MustSigma("0.80")); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	first, err := hv.CreateSession(ctx, admin, &session.Config{Name: "dev", MaxParticipants: 3})
	if err != nil {
		t.Fatal(err)
	}
	var taken *hypervisor.Refused
	if _, err := hv.CreateSession(ctx, admin, &session.Config{Name: "dev"}); !errors.As(err, &taken) {
		t.Errorf("a name was taken from a living session: %v", err)
	}
	tk := system.Token{ID: "tok-1", Hash: [32]byte{1}, Subject: ann, Role: policy.AgentRole, Alias: "dev"}
	s, err := hv.Enter(ctx, tk)
	if err != nil || s.ID() != first.ID() {
		t.Fatal(s, err)
	}
	if _, err := s.Terminate(ctx, admin); err != nil {
		t.Fatal(err)
	}
	next, err := hv.Enter(ctx, tk)
	if err != nil || next.ID() == first.ID() {
		t.Fatal(next, err)
	}
	state, err := next.State(ctx)
	if err != nil || state.Config.MaxParticipants != 3 || state.Lifecycle != session.Active || state.Participants[ann].Ring != ring.Standard {
		t.Errorf("%+v, %v", state, err)
	}
	if _, err := hv.Enter(ctx, system.Token{Subject: ann, Alias: "nobody"}); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("an unknown alias: %v", err)
	}
}

// SPEC §7: a changed definition is refused until an operator accepts it, repeating the digest he saw.
func TestChangedDefinitionIsAcceptedByTheDigestThatWasSeen(t *testing.T) {
	ctx := context.Background()
	hv := hypervisortest.Open(t, nil)
	see := func(digest byte, text string) bool {
		changed, err := hv.Pin(ctx, admin, map[string]system.Seen{"f.w": {Digest: [32]byte{digest}, Text: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		return changed["f.w"]
	}
	if see(1, `{"v":1}`) {
		t.Error("changed at first sight")
	}
	if !see(2, `{"v":2}`) {
		t.Error("another definition is not a change")
	}
	pins, err := hv.ToolPins(ctx, "f.")
	if err != nil || len(pins) != 1 || !pins[0].Changed || string(pins[0].Was) != `{"v":1}` || string(pins[0].Is) != `{"v":2}` {
		t.Fatalf("%+v, %v", pins, err)
	}
	accepted := hv.Accepted()
	if d, err := hv.Accept(ctx, admin, "f.w", [32]byte{3}); err != nil || d.Code != policy.NotFound {
		t.Errorf("accepted what nobody saw: %+v, %v", d, err)
	}
	if d, err := hv.Accept(ctx, policy.Agent(ann), "f.w", [32]byte{2}); err != nil || d.Code != policy.Forbidden {
		t.Errorf("accepted by an agent: %+v, %v", d, err)
	}
	if d, err := hv.Accept(ctx, admin, "f.w", [32]byte{2}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	<-accepted
	if see(2, `{"v":2}`) {
		t.Error("changed after it was accepted")
	}
}
