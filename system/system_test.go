package system

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

var operator = policy.Operator("did:mesh:ops")

// A node decides and applies as the rim does, and holds the fold of the stored bytes against the live state.
type node struct {
	t            *testing.T
	live, folded *State
}

func newNode(t *testing.T) *node { return &node{t, NewState(), NewState()} }

// do returns the types of what was recorded.
func (n *node) do(by policy.Caller, c Command) string {
	n.t.Helper()
	before := asJSON(n.live)
	out := Decide(n.live, Env{Now: time.Unix(1, 0), Caller: by}, c)
	if asJSON(n.live) != before {
		n.t.Fatalf("%T: Decide changed the state", c)
	}
	if !out.Allowed {
		return string(out.Code)
	}
	stored := AppendEvents(nil, out.Events)
	events, err := ParseEvents(stored)
	if err != nil {
		n.t.Fatalf("%s: %v", stored, err)
	}
	if diff := cmp.Diff(out.Events, events); len(events) > 0 && diff != "" {
		n.t.Fatalf("came back otherwise: %s", diff)
	}
	if len(events) == 0 {
		return ""
	}
	at := time.Unix(int64(out.Seq), 0).UTC()
	Apply(n.live, out.Seq, at, out.Events)
	Apply(n.folded, out.Seq, at, events)
	var snapshot State
	if err := json.Unmarshal([]byte(asJSON(n.live)), &snapshot); err != nil {
		n.t.Fatal(err)
	}
	if diff := cmp.Diff(n.live, n.folded) + cmp.Diff(n.live, &snapshot); diff != "" {
		n.t.Fatal(diff)
	}
	var kinds []string
	for _, e := range out.Events {
		kinds = append(kinds, kind(e))
	}
	return strings.Join(kinds, " ")
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func kind(e Event) string {
	var v struct{ Type string }
	if err := json.Unmarshal(e.Append(nil), &v); err != nil {
		panic(err)
	}
	return v.Type
}

func hash(text string) audit.Hash { return audit.Leaf([]byte(text)) }

func TestTheNode(t *testing.T) {
	n := newNode(t)
	for i, step := range []struct {
		c    Command
		want string // types recorded
		why  string
	}{
		{Start{"p1", "v1"}, "system.started", "epoch 1"},
		{Open{"s1"}, "audit.opened", "SPEC §8: a session's opening is a record of the system stream"},
		{Open{"s1"}, "", "the effect is repeated after a crash; the record is not"},
		{Open{"s2"}, "audit.opened", ""},
		{Commit{"s1", 7, hash("root")}, "audit.committed", "SPEC §8: so is its summary"},
		{Commit{"s1", 7, hash("root")}, "", "stated already"},
		{Commit{"s9", 1, hash("root")}, "", "never opened"},
		{Pin{map[string]Seen{"f.write": {Digest: hash("w")}, "f.read": {Digest: hash("r")}}}, "tools.pinned tools.pinned", "in the order of the names"},
		{Pin{map[string]Seen{"f.write": {Digest: hash("other")}, "f.list": {Digest: hash("l")}}}, "tools.pinned", "SPEC §7: a pinned tool keeps its pin"},
		{Pin{}, "", ""},
		{LoadRules{"v1"}, "policy.loaded", ""},
		{LoadRules{"v1"}, "", "the same are in force"},
		{LoadRules{"v2"}, "policy.loaded", ""},
		{LoadRules{"v1"}, "policy.loaded", "back is a change too"},
		{LoadConfig{hash("c1")}, "config.loaded", ""},
		{LoadConfig{hash("c1")}, "", "the same is in force"},
		{Stop{}, "system.stopped", ""},
		{Start{"p2", "v1"}, "system.started", "after a clean stop"},
	} {
		if got := n.do(operator, step.c); got != step.want {
			t.Errorf("%d %+v (%s): recorded %q, want %q", i, step.c, step.why, got, step.want)
		}
	}
	digests := map[string]audit.Hash{}
	for tool, pin := range n.live.Pins {
		digests[tool] = pin.Digest
	}
	if diff := cmp.Diff(map[string]audit.Hash{"f.write": hash("w"), "f.read": hash("r"), "f.list": hash("l")}, digests); diff != "" {
		t.Error(diff)
	}
	want := &State{Seq: n.live.Seq, Time: n.live.Time, Incarnation: "p2", Epoch: 1, Open: map[string]struct{}{"s2": {}}, Sessions: 2,
		Pins: n.live.Pins, Rules: "v1", Config: hash("c1"), Tokens: map[string]Token{}, Aliases: map[string]string{}}
	if diff := cmp.Diff(want, n.live); diff != "" {
		t.Error(diff)
	}
}

// SPEC §1: "After an unclean stop ids, versions and fences go on in a new epoch".
func TestAnUncleanStopBeginsAnEpoch(t *testing.T) {
	n := newNode(t)
	for i, step := range []struct {
		c     Command
		epoch uint64
	}{
		{Start{"p1", "v"}, 1}, {Stop{}, 1}, {Start{"p2", "v"}, 1}, {Start{"p3", "v"}, 2}, {Start{"p4", "v"}, 3}, {Stop{}, 3}, {Start{"p5", "v"}, 3},
	} {
		n.do(policy.System, step.c)
		if n.live.Epoch != step.epoch {
			t.Errorf("step %d: epoch %d, want %d", i, n.live.Epoch, step.epoch)
		}
	}
}

// SPEC §2 "Ring 0 is no agent's: … policy, pins".
func TestOnlyAnOperatorMovesTheNode(t *testing.T) {
	n := newNode(t)
	for _, by := range []policy.Caller{policy.Agent("did:mesh:ann"), policy.Approver("did:mesh:kim"), policy.Auditor("did:mesh:amy"), {}} {
		for _, c := range []Command{Start{}, Stop{}, Open{"s"}, Commit{Session: "s"}, Pin{map[string]Seen{"t": {}}}, LoadRules{"v"}, LoadConfig{hash("c")}} {
			if got := n.do(by, c); got != string(policy.Forbidden) {
				t.Errorf("%s %T: %s", by.Role, c, got)
			}
		}
	}
}

func TestPinsAreBounded(t *testing.T) {
	s := NewState()
	for i := range MaxPins - 1 {
		s.Pins[fmt.Sprint("t", i)] = Definition{}
	}
	out := Decide(s, Env{Caller: operator}, Pin{map[string]Seen{"z1": {}, "z2": {}, "t0": {}}})
	if len(out.Events) != 1 || out.Events[0].(Pinned).Tool != "z1" {
		t.Errorf("%v", out.Events)
	}
}

func samples() []Event {
	odd := "\"\\\n\u2028é\U0001F600"
	return []Event{Started{odd, 1 << 62, "v1"}, Stopped{}, Opened{odd}, Committed{"s1", 7, hash("x")}, Pinned{odd, hash("x"), hash("y")}, Accepted{odd, hash("x"), hash("w"), hash("y")}, TokenIssued{Token{ID: odd, Hash: hash("t"), Subject: "did:mesh:a", Role: policy.AgentRole, Alias: odd, Expires: time.Unix(9, 123456000).UTC()}}, TokenRevoked{odd}, AliasBound{odd, odd, odd}, RulesLoaded{odd}, ConfigLoaded{hash("c")},
		Killed{odd, "all", policy.Manual, odd, "did:mesh:a", time.Unix(9, 123456000).UTC()}, KillLifted{odd, "all"}}
}

func TestEveryEventIsReadAsItWasWritten(t *testing.T) {
	var seen []string
	for _, e := range samples() {
		seen = append(seen, kind(e))
		back, err := ParseEvents(AppendEvents(nil, []Event{e, e}))
		if err != nil {
			t.Errorf("%T: %v", e, err)
		} else if diff := cmp.Diff([]Event{e, e}, back); diff != "" {
			t.Errorf("%T: %s", e, diff)
		}
		var ours, theirs map[string]any
		if err := json.Unmarshal(e.Append(nil), &ours); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(asJSON(e)), &theirs); err != nil {
			t.Fatal(err)
		}
		delete(ours, "type")
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("%T (-encoding/json +ours): %s", e, diff)
		}
	}
	slices.Sort(seen)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(readers)), seen); diff != "" {
		t.Errorf("events without a sample: %s", diff)
	}
}

func FuzzParseEvents(f *testing.F) {
	for _, e := range samples() {
		f.Add(AppendEvents(nil, []Event{e}))
	}
	f.Add([]byte(`[{"type":"system.nonsense"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := ParseEvents(b)
		if err != nil {
			return
		}
		again, err := ParseEvents(AppendEvents(nil, events))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(events, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
