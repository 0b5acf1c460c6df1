package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// abuse_test.go: what agents try through the door (the issues' "Abuse that must fail").

// A crowd is a session of several agents, each with a token of its own, and two operators.
type crowd struct {
	*house
	t    *testing.T
	s    *hypervisor.Session
	path string

	mu    sync.Mutex
	wiped int
}

func (c *crowd) wipes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wiped
}

func gather(t *testing.T, sigmas map[string]string) *crowd {
	t.Helper()
	h := build(t)
	s, err := h.hv.CreateSession(t.Context(), admin, &session.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{house: h, t: t, s: s, path: "/v1/sessions/" + s.ID()}
	for name, sigma := range sigmas {
		if _, err := s.Join(t.Context(), admin, session.Join{Agent: policy.DID("did:mesh:" + name), Sigma: ring.MustSigma(sigma)}); err != nil {
			t.Fatal(err)
		}
		c.token(name)
	}
	if err := s.Activate(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	echo := func(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil }
	s.Register(action.Descriptor{ID: "read", ReadOnly: true}, echo)
	s.Register(action.Descriptor{ID: "put", Reversibility: action.Partial}, echo)
	s.Register(action.Descriptor{ID: "unput", Reversibility: action.Partial}, echo)
	s.Register(action.Descriptor{ID: "wipe"}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wiped++
		return nil, nil
	})
	return c
}

// token gives an agent one for the session.
func (c *crowd) token(name string) {
	c.t.Helper()
	w := c.ask("operator", "POST", "/v1/agents/did:mesh:"+name+"/tokens", fmt.Sprintf(`{"session":%q}`, c.s.ID()), "")
	c.tokens[name] = get[api.IssuedToken](c.t, w).Token
}

// refused makes a request that must be answered so.
func (c *crowd) refused(who, method, path, body string, code policy.Code) {
	c.t.Helper()
	if w := c.ask(who, method, c.path+path, body, ""); w.Code < 400 || errorOf(c.t, w).Code != string(code) {
		c.t.Errorf("%s %s %s %s: %d %s, want %s", who, method, path, body, w.Code, w.Body, code)
	}
}

// rests returns a saga once it rests.
func (c *crowd) rests(id string) api.Saga {
	c.t.Helper()
	return get[api.Saga](c.t, c.ask("auditor", "GET", c.path+"/sagas/"+id+"?wait=true", "", ""))
}

// A ring-2 agent that names what it may not do as the undo of a saga of its own, and then goes, has it done by nobody: not by leaving, not by
// being killed, not by cancelling; it waits for an approver all the same.
func TestNobodyGetsAroundAnApprovalByASagasUndo(t *testing.T) {
	const body = `{"saga":"trap","steps":[{"id":"a","agent":"did:mesh:eve","execute":"func:put","undo":"func:wipe"},` +
		`{"id":"b","agent":"did:mesh:eve","action":"wipe","needs":["a"]}]}`
	for name, goes := range map[string]func(c *crowd, id string){
		"leaves": func(c *crowd, _ string) { get[api.Session](c.t, c.ask("eve", "POST", c.path+"/leave", `{}`, "")) },
		"killed": func(c *crowd, _ string) {
			if w := c.ask("operator", "POST", "/v1/agents/did:mesh:eve/kill", `{"reason":"manual"}`, ""); w.Code != http.StatusOK {
				c.t.Fatal(w.Code, w.Body)
			}
		},
		"cancels": func(c *crowd, id string) {
			get[api.Decision](c.t, c.ask("eve", "DELETE", c.path+"/sagas/"+id, "", ""))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := gather(t, map[string]string{"eve": "0.80", "bob": "0.97", "cem": "0.97"})
			c.refused("eve", "POST", "/actions", `{"action":"wipe"}`, policy.ApprovalRequired)
			v := get[api.Saga](t, c.ask("eve", "POST", c.path+"/sagas?wait=true", body, ""))
			if v.State != "waiting" || v.Steps[0].State != "committed" || !strings.HasPrefix(v.Steps[1].Waits, "approval apr-") {
				t.Fatalf("%+v", v)
			}
			goes(c, v.ID)
			if name != "cancels" { // the step waits for its approval; that its agent is gone is found out when it is tried
				get[api.Decision](t, c.ask("operator", "DELETE", c.path+"/sagas/"+v.ID, "", ""))
			}
			if v = c.rests(v.ID); v.State != "waiting" || !strings.HasPrefix(v.Steps[0].Waits, "approval apr-") || c.wipes() != 0 {
				t.Errorf("wiped %d times, and the saga is %s: %+v", c.wipes(), v.State, v.Steps)
			}
		})
	}
}

// What is said to be nothing is not taken for what is usual.
func TestNothingIsNotTheUsual(t *testing.T) {
	c := gather(t, map[string]string{"ann": "0.90", "new": "0.50"})
	for _, bond := range []string{"0", "0.000000", "-0.1", "1.1", "0.0000001", "1e-3", `"NaN"`} {
		if w := c.ask("ann", "POST", c.path+"/vouches", `{"vouchee":"did:mesh:new","bond":`+bond+`}`, ""); w.Code != http.StatusUnprocessableEntity && w.Code != http.StatusBadRequest {
			t.Errorf("a bond of %s: %d %s", bond, w.Code, w.Body)
		}
	}
	for path, body := range map[string]string{c.path + "/slashes": `{"agent":"did:mesh:new","severity":0,"reason":"x"}`,
		"/v1/agents/did:mesh:new/slash": `{"severity":0,"reason":"x"}`, "/v1/agents/did:mesh:new/quarantine": `{"severity":0.0,"reason":"manual"}`} {
		if w := c.ask("operator", "POST", path, body, ""); w.Code != http.StatusUnprocessableEntity || errorOf(t, w).Code != string(policy.InvalidArguments) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if all := get[api.Page[api.Bond]](t, c.ask("auditor", "GET", c.path+"/vouches", "", "")).Items; len(all) != 0 {
		t.Errorf("%+v", all)
	}
	if p, err := c.s.Participant(t.Context(), "did:mesh:new"); err != nil || p.SigmaEff != ring.MustSigma("0.50") {
		t.Errorf("%+v, %v", p, err)
	}
}

// Vouching, spawning and elevating together gain nothing that each alone would not: a child stays below its parent, nobody is its own
// kin's sponsor or voter, and an elevated friend, or a partner, has no voice.
func TestVouchesChildrenAndElevationsTogetherGainNothing(t *testing.T) {
	c := gather(t, map[string]string{"eve": "0.60", "pal": "0.70", "low": "0.55", "ace": "0.97", "ben": "0.97"})
	get[api.Bond](t, c.ask("pal", "POST", c.path+"/vouches", `{"vouchee":"did:mesh:eve","bond":0.40}`, "")) // eve is lifted into ring 2
	get[api.Joined](t, c.ask("eve", "POST", c.path+"/join", `{"agent":"did:mesh:kid"}`, ""))
	c.token("kid")
	c.refused("kid", "POST", "/actions", `{"action":"put"}`, policy.RingInsufficient)
	c.refused("eve", "POST", "/vouches", `{"vouchee":"did:mesh:kid"}`, policy.VouchRefused)
	c.refused("kid", "POST", "/vouches", `{"vouchee":"did:mesh:low"}`, policy.VouchRefused)
	c.refused("eve", "POST", "/join", `{"agent":"did:mesh:pal"}`, policy.Forbidden)
	c.refused("eve", "POST", "/join", `{"agent":"did:mesh:kid2","sigma":0.9}`, policy.Forbidden)
	c.refused("kid", "POST", "/elevations", `{"ring":2}`, policy.ElevationRefused)
	asked := get[api.Elevation](t, c.ask("low", "POST", c.path+"/elevations", `{"ring":2}`, ""))
	grant := func(who string, code policy.Code) {
		t.Helper()
		w := c.ask(who, "POST", "/v1/approvals/"+asked.Approval.ID+"/grant?session="+c.s.ID(), fmt.Sprintf(`{"digest":%q}`, asked.Approval.Digest), "")
		if code == "" && w.Code != http.StatusOK || code != "" && (w.Code < 400 || errorOf(t, w).Code != string(code)) {
			t.Errorf("%s grants: %d %s, want %q", who, w.Code, w.Body, code)
		}
	}
	grant("eve", policy.Forbidden) // who is lifted by a bond is in ring 2, and not by her own score
	grant("kid", policy.Forbidden)
	grant("low", policy.Forbidden)
	grant("pal", "")
	c.refused("ace", "POST", "/actions", `{"action":"wipe"}`, policy.ApprovalRequired)
	open := get[api.Page[api.Approval]](t, c.ask("operator", "GET", "/v1/approvals?session="+c.s.ID(), "", "")).Items
	if len(open) != 1 || strings.Join(open[0].Electors, " ") != "did:mesh:ben did:mesh:pal" {
		t.Errorf("%+v", open)
	}
}

// Two operators at once: what both want is done once, and of what they want otherwise the first counts.
func TestTwoOperatorsAtOnce(t *testing.T) {
	c := gather(t, map[string]string{"ann": "0.80"})
	secret, _, err := c.door.Issue(t.Context(), admin, system.Token{Subject: "did:mesh:two", Role: policy.OperatorRole}, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.tokens["two"] = secret.Reveal()
	for range 10 {
		v := get[api.Saga](t, c.ask("operator", "POST", c.path+"/sagas?wait=true", `{"saga":"s","steps":[{"id":"a","agent":"did:mesh:ann","execute":"func:put","undo":"func:unput"},`+
			`{"id":"b","agent":"did:mesh:ann","action":"wipe","needs":["a"]}]}`, ""))
		if v.State != "waiting" {
			t.Fatalf("%+v", v)
		}
		var both sync.WaitGroup
		for _, who := range []string{"operator", "two"} {
			both.Go(func() { c.ask(who, "DELETE", c.path+"/sagas/"+v.ID, "", "") })
			both.Go(func() {
				c.ask(who, "POST", c.path+"/sagas/"+v.ID+"/resolve", `{"step":"b","how":"retry"}`, "")
			})
		}
		both.Wait()
		if v = c.rests(v.ID); v.State != "compensated" || v.Steps[0].State != "compensated" {
			t.Errorf("%s: %+v", v.State, v.Steps)
		}
	}
	if c.wipes() != 0 {
		t.Errorf("wiped %d times", c.wipes())
	}
	acts := get[api.Page[api.Action]](t, c.ask("auditor", "GET", c.path+"/actions?limit=200", "", "")).Items
	undone := map[string]int{}
	for _, a := range acts {
		undone[a.Action]++
	}
	if undone["put"] != 10 || undone["unput"] != 10 {
		t.Errorf("%v", undone)
	}
}
