package system

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
)

const ann, bob = policy.DID("did:mesh:ann"), policy.DID("did:mesh:bob")

// SPEC §7: "After everything nothing runs … until an operator lifts it."
func TestTheKillOfEverythingIsRecordedOnceAndLiftedOnce(t *testing.T) {
	n := newNode(t)
	kill := func(id string) Kill {
		return Kill{policy.Kill{ID: id, Scope: policy.Scope{All: true}, Reason: policy.Manual, By: "did:mesh:ops", At: time.Unix(1, 0).UTC()}}
	}
	for i, step := range []struct {
		by   policy.Caller
		c    Command
		want string
		why  string
	}{
		{operator, LiftKill{}, "not_found", "there is nothing to lift"},
		{policy.Agent(ann), kill("kil-1"), "forbidden", ""},
		{policy.Approver(ann), kill("kil-1"), "forbidden", ""},
		{operator, kill("kil-1"), "security.killed", "SPEC §2: a kill needs no witness"},
		{policy.System, kill("kil-1"), "", "its record is owed, and repeated"},
		{operator, kill("kil-2"), "", "everything is killed already"},
		{policy.Agent(ann), LiftKill{}, "forbidden", ""},
		{operator, LiftKill{}, "security.kill_lifted", ""},
		{policy.System, kill("kil-1"), "", "that one was lifted: who still owes its record does not bring it back"},
		{operator, kill("kil-3"), "security.killed", "another one"},
	} {
		if got := n.do(step.by, step.c); got != step.want {
			t.Errorf("%d %+v (%s): %q, want %q", i, step.c, step.why, got, step.want)
		}
	}
	if n.live.Killed == nil || n.live.Killed.ID != "kil-3" || !n.live.Killed.All {
		t.Errorf("%+v", n.live.Killed)
	}
}

// SPEC §7: a kill "revokes tokens".
func TestAKillRevokesTheTokensOfWhatItStops(t *testing.T) {
	for _, step := range []struct {
		scope policy.Scope
		want  []string // ids that stay
	}{
		{policy.Scope{Agent: ann}, []string{"approver", "b1", "bdev"}},
		{policy.Scope{Agent: ann, Session: "s1"}, []string{"a2", "adev", "approver", "b1", "bdev"}},
		{policy.Scope{Agent: ann, Session: "s2"}, []string{"a1", "approver", "b1", "bdev"}},
		{policy.Scope{Session: "s1"}, []string{"a2", "adev", "approver", "bdev"}},
		{policy.Scope{Session: "s2"}, []string{"a1", "adev", "approver", "b1", "bdev"}},
		{policy.Scope{All: true}, []string{"a1", "a2", "adev", "approver", "b1", "bdev"}},
	} {
		n := newNode(t)
		n.do(operator, BindAlias{"dev", "s2"})
		for _, tok := range []Token{
			{ID: "a1", Subject: ann, Session: "s1"}, {ID: "a2", Subject: ann, Session: "s2"}, {ID: "adev", Subject: ann, Alias: "dev"},
			{ID: "b1", Subject: bob, Session: "s1"}, {ID: "bdev", Subject: bob, Alias: "dev"}, {ID: "approver", Subject: ann, Role: policy.ApproverRole},
		} {
			if tok.Role == policy.NoRole {
				tok.Role = policy.AgentRole
			}
			tok.Hash, tok.Expires = hash(tok.ID), time.Unix(100_000, 0).UTC()
			if got := n.do(operator, IssueToken{tok}); got != "token.issued" {
				t.Fatal(got)
			}
		}
		n.do(operator, RevokeTokensOf{step.scope})
		if got := n.do(operator, RevokeTokensOf{step.scope}); got != "" {
			t.Errorf("%s: a second time records %s", step.scope, got)
		}
		var stay []string
		for _, tok := range n.live.Tokens {
			stay = append(stay, tok.ID)
		}
		if slices.Sort(stay); !slices.Equal(stay, step.want) {
			t.Errorf("%s: %v stay, want %v", step.scope, stay, step.want)
		}
	}
}

func TestTokensAreRevokedInRecordsOfABoundedSize(t *testing.T) {
	s := NewState()
	for i := range maxRevoked + 10 {
		tok := Token{ID: fmt.Sprintf("t%04d", i), Hash: hash(fmt.Sprint(i)), Subject: ann, Role: policy.AgentRole, Session: "s1"}
		s.Tokens[tok.Hash.String()] = tok
	}
	for _, want := range []int{maxRevoked, 10, 0} {
		out := Decide(s, Env{Caller: operator}, RevokeTokensOf{policy.Scope{Agent: ann}})
		if len(out.Events) != want {
			t.Fatalf("%d revoked, want %d", len(out.Events), want)
		}
		if want > 0 {
			Apply(s, s.Seq+1, time.Unix(1, 0), out.Events)
		}
	}
}

func TestWhoIsKilledGetsNoToken(t *testing.T) {
	s := NewState()
	s.Aliases["dev"] = "s2"
	kills := policy.Kills{}.With(policy.Kill{Scope: policy.Scope{Agent: ann}}).With(policy.Kill{Scope: policy.Scope{Agent: bob, Session: "s2"}}).
		With(policy.Kill{Scope: policy.Scope{All: true}})
	for _, step := range []struct {
		t    Token
		want policy.Code
	}{
		{Token{Subject: ann, Session: "s1"}, policy.AgentKilled},
		{Token{Subject: bob, Session: "s1"}, policy.OK},
		{Token{Subject: bob, Session: "s2"}, policy.AgentKilled},
		{Token{Subject: bob, Alias: "dev"}, policy.AgentKilled},
		{Token{Subject: ann, Role: policy.AuditorRole}, policy.OK},
	} {
		tok := step.t
		if tok.Role == policy.NoRole {
			tok.Role = policy.AgentRole
		}
		tok.ID, tok.Hash, tok.Expires = "t1", hash("t1"), time.Unix(100, 0)
		out := Decide(s, Env{Now: time.Unix(1, 0), Caller: operator, Kills: kills}, IssueToken{tok})
		if out.Code != step.want {
			t.Errorf("%+v: %s %s, want %s", step.t, out.Code, out.Reason, step.want)
		}
	}
}
