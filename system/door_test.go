package system

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/policy"
)

func token(id string) Token {
	return Token{ID: id, Hash: hash(id), Subject: "did:mesh:ann", Role: policy.AgentRole, Session: "s1", Expires: time.Unix(100, 0).UTC()}
}

func TestTokensAreIssuedWithinTheirBounds(t *testing.T) {
	n := newNode(t)
	n.do(operator, Open{"s1"})
	n.do(operator, BindAlias{"dev", "s1"})
	for i, c := range []struct {
		change func(*Token)
		want   string
	}{
		{func(tk *Token) { tk.ID = "t0" }, issuedType},
		{func(tk *Token) { tk.ID = "t0" }, "idempotency_conflict"}, // its secret cannot be given out again
		{func(tk *Token) { tk.Session, tk.Alias = "", "dev" }, issuedType},
		{func(tk *Token) { tk.Role, tk.Session = policy.ApproverRole, "" }, issuedType},
		{func(tk *Token) { tk.Alias = "dev" }, "invalid_arguments"},
		{func(tk *Token) { tk.Session = "" }, "invalid_arguments"},
		{func(tk *Token) { tk.Role = policy.AuditorRole }, "invalid_arguments"},
		{func(tk *Token) { tk.Role = policy.SystemRole }, "invalid_arguments"},
		{func(tk *Token) { tk.Expires = time.Unix(1, 0) }, "invalid_arguments"},
		{func(tk *Token) { tk.Expires = time.Unix(1, 0).Add(MaxTokenLife + time.Second) }, "invalid_arguments"},
		{func(tk *Token) { tk.Session, tk.Alias = "", "nobody" }, "not_found"},
		{func(tk *Token) { tk.Subject = "" }, "invalid_arguments"},
	} {
		tk := token(fmt.Sprint("t", i))
		c.change(&tk)
		if got := n.do(operator, IssueToken{tk}); got != c.want {
			t.Errorf("%+v: %s, want %s", tk, got, c.want)
		}
	}
	if got := n.do(policy.Agent("did:mesh:ann"), IssueToken{token("t2")}); got != "forbidden" {
		t.Errorf("an agent issued a token: %s", got)
	}
}

func TestARevokedTokenIsGone(t *testing.T) {
	n := newNode(t)
	n.do(operator, IssueToken{token("t1")})
	n.do(operator, IssueToken{token("t2")})
	if got := n.do(operator, RevokeToken{"t1"}); got != revokedType {
		t.Fatal(got)
	}
	if got := n.do(operator, RevokeToken{"t1"}); got != "not_found" {
		t.Error(got)
	}
	if len(n.live.Tokens) != 1 || n.live.Tokens[hash("t2").String()].ID != "t2" {
		t.Errorf("%+v", n.live.Tokens)
	}
}

// An alias stands for one session until that has ended.
func TestAnAliasIsNotTakenFromALivingSession(t *testing.T) {
	n := newNode(t)
	var got []string
	for _, c := range []Command{Open{"s1"}, BindAlias{"dev", "s1"}, BindAlias{"dev", "s1"}, Open{"s2"}, BindAlias{"dev", "s2"},
		Commit{Session: "s1"}, BindAlias{"dev", "s2"}, BindAlias{"", "s2"}} {
		got = append(got, n.do(operator, c))
	}
	want := "audit.opened session.alias_bound  audit.opened forbidden audit.committed session.alias_bound invalid_arguments"
	if strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	if n.live.Aliases["dev"] != "s2" {
		t.Error(n.live.Aliases)
	}
}

// SPEC §7: a changed definition counts once an operator has accepted it.
func TestAnAcceptedDefinitionIsThePin(t *testing.T) {
	n := newNode(t)
	n.do(operator, Pin{map[string]Seen{"f.w": {Digest: hash("1"), Text: []byte("{}")}}})
	if got := n.do(operator, Accept{"f.w", Seen{Digest: hash("2"), Text: []byte("{}")}}); got != acceptedType {
		t.Fatal(got)
	}
	if n.live.Pins["f.w"].Digest != hash("2") {
		t.Error(n.live.Pins)
	}
	if got := n.do(operator, Accept{"f.w", Seen{Digest: hash("2")}}); got != "" {
		t.Error(got)
	}
}
