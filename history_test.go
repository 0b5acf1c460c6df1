package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// A notary is a verifier that answers as it is told.
type notary struct {
	proofs []session.Proof
	err    error
	asked  int
}

func (n *notary) VerifyReceipts(context.Context, []session.Receipt) ([]session.Proof, error) {
	n.asked++
	return n.proofs, n.err
}

func pastOf(did policy.DID, sessions int) (all []session.Receipt) {
	for i := range sessions {
		at := time.Date(2020, 1, 1, i, 0, 0, 0, time.UTC)
		all = append(all, session.Receipt{Hypervisor: "hv.example", Session: fmt.Sprint("ses-", i), Agent: did, Opened: at, Ended: at.Add(time.Hour),
			Summary: audit.Leaf(fmt.Append(nil, i)), Records: 9, Proof: "proof"})
	}
	return all
}

// SPEC §3 "History": what a verifier finds is what the join is decided on; one that is away, or answers something else than it was
// asked, raises nobody and lowers nobody; what a caller says of its own proofs counts for nothing.
func TestAJoinIsDecidedOnWhatTheVerifierFinds(t *testing.T) {
	const yes, no, away = session.Proven, session.Disproven, session.Unproven
	for _, c := range []struct {
		name   string
		notary *notary
		result string
		ring   ring.Ring
	}{
		{"nobody to ask", nil, "unreachable", ring.Privileged},
		{"all hold", &notary{proofs: []session.Proof{yes, yes, yes, yes, yes}}, "verified", ring.Privileged},
		{"few", &notary{proofs: []session.Proof{yes, yes, yes, yes}}, "few", ring.Privileged},
		{"one does not hold", &notary{proofs: []session.Proof{away, yes, yes, yes, no}}, "suspicious", ring.Sandbox},
		{"of one nobody can say", &notary{proofs: []session.Proof{yes, yes, away, yes, yes}}, "unreachable", ring.Privileged},
		{"away", &notary{err: errors.New("no route")}, "unreachable", ring.Privileged},
		{"an error and an answer", &notary{proofs: []session.Proof{no, no, no, no, no}, err: errors.New("half of it")}, "unreachable", ring.Privileged},
		{"fewer answers than receipts", &notary{proofs: []session.Proof{no}}, "unreachable", ring.Privileged},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := &hypervisor.Options{}
			number := 5
			if c.notary != nil {
				opts.History = c.notary
				if c.result == "few" {
					number = len(c.notary.proofs)
				}
			}
			s := hypervisortest.Session(t, hypervisortest.Open(t, opts), nil, map[policy.DID]string{bob: "0.97"})
			join := session.Join{Agent: ann, Sigma: 970_000, Receipts: pastOf(ann, number), Proofs: make([]session.Proof, number), Key: "once"}
			for i := range join.Proofs {
				join.Proofs[i] = no // a caller's word
			}
			for range 2 {
				p, err := s.Join(context.Background(), admin, join)
				if err != nil {
					t.Fatal(err)
				}
				if p.Ring != c.ring || p.History == nil || p.History.Result != c.result {
					t.Errorf("ring %d, history %+v", p.Ring, p.History)
				}
			}
			if c.notary != nil && c.notary.asked != 1 {
				t.Errorf("asked %d times of a join and its repeat", c.notary.asked)
			}
		})
	}
}

// The ceiling changes what becomes of a real call, also in the next process, until the result expires; a refused join asks nobody.
func TestASuspiciousHistoryHoldsItsAgentAcrossARestartForADay(t *testing.T) {
	ctx := context.Background()
	store, clock := newKept(), hypervisortest.NewClock()
	n := &notary{proofs: []session.Proof{session.Proven, session.Disproven}}
	opts := &hypervisor.Options{Store: store, Clock: clock, History: n}
	hv := hypervisortest.Open(t, opts)
	s := hypervisortest.Session(t, hv, &session.Config{MaxDuration: 48 * time.Hour}, map[policy.DID]string{bob: "0.97"})
	if _, err := s.Join(ctx, admin, session.Join{Agent: ann, Receipts: pastOf(bob, 2)}); err == nil || n.asked != 0 {
		t.Errorf("another's receipts: %v, asked %d times", err, n.asked)
	}
	if _, err := s.Join(ctx, admin, session.Join{Agent: ann, Sigma: 970_000, Receipts: pastOf(ann, 2)}); err != nil {
		t.Fatal(err)
	}
	var tool echo
	register(s, tool.do)
	if out := act(t, s, ann, "write", `{}`); out.Code != policy.RingInsufficient {
		t.Errorf("held in ring 3: %+v", out.Decision)
	}
	if out := act(t, s, bob, "write", `{}`); !out.Allowed {
		t.Errorf("another's call: %+v", out.Decision)
	}
	id := s.ID()
	closeAll(t, hv)
	hv = hypervisortest.Open(t, opts)
	s, err := hv.Session(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	register(s, tool.do)
	if out := act(t, s, ann, "write", `{}`); out.Code != policy.RingInsufficient {
		t.Errorf("after a restart: %+v", out.Decision)
	}
	clock.Advance(24 * time.Hour)
	if out := act(t, s, ann, "write", `{}`); !out.Allowed {
		t.Errorf("a day later: %+v", out.Decision)
	}
	closeAll(t, hv)
	verify(t, store)
}
