package session_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// A world is one session with what the rim would hold beside it: the clock, the standings, the tools, the rules, the log.
// do is the live path; it checks after every command what must hold after every command.
type world struct {
	live      *session.State
	folded    *session.State // of the records read back from the log, one by one
	log       [][]byte       // records as they are stored
	now       time.Time
	standings map[policy.DID]agent.Standing
	scores    *session.Scores // kept beside live
	tools     map[string]session.Call
	rules     rules
	version   int // of the rules
	tallies   map[policy.DID]session.Tally
	operators int
	kills     policy.Kills // in force and in no record
	node      uint64
	process   int
	behind    bool

	effects []session.Effect // of the newest command
	events  []session.Event
}

var start = time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)

func newWorld() *world {
	return &world{live: session.NewState("s1"), folded: session.NewState("s1"), now: start, standings: map[policy.DID]agent.Standing{}, scores: session.NewScores(session.NewState("s1"), nil), tools: map[string]session.Call{},
		tallies: map[policy.DID]session.Tally{}, operators: 1, node: 1, process: 1}
}

// rules are what a scenario's rules say: the first that names the action.
type rules []struct {
	verdict policy.Verdict
	action  string
	agent   policy.DID // whose calls it is about; empty: everybody's
}

func (r rules) Evaluate(q policy.Request) (v policy.Verdict) {
	for _, rule := range r {
		if rule.action == q.Action.ID && (rule.agent == "" || rule.agent == q.Agent) && rule.verdict.Effect > v.Effect {
			v = rule.verdict
		}
	}
	return v
}

func (w *world) env(by policy.Caller, c session.Command, key string) session.Env {
	env := session.Env{Now: w.now, ClockBehind: w.behind, Caller: by, Standings: w.standings, Scores: w.scores, Rules: w.rules, RulesID: fmt.Sprint("rules-", w.version),
		Random: sha256.Sum256(fmt.Append(nil, len(w.log))), Secret: sha256.Sum256([]byte("secret")),
		Incarnation: fmt.Sprint("process-", w.process), NodeEpoch: w.node, Operators: w.operators, Tallies: w.tallies, Kills: w.kills}
	if key != "" {
		env.Key = session.Key{Text: key, Digest: sha256.Sum256(fmt.Appendf(nil, "%#v", c))}
	}
	if act, ok := c.(session.Act); ok {
		if call, known := w.tools[act.Action]; known {
			call.Args = append([]byte{}, act.Args...)
			env.Call = &call
			w.live.Narrow(by.DID, &call)
		}
	}
	if step, ok := c.(session.UndoStep); ok {
		d := action.Descriptor{ID: session.UndoAction, Reversibility: action.Partial, Admin: step.Of.Required == ring.Root}
		env.Call = &session.Call{Descriptor: d, Digest: d.Digest(), Args: []byte(`{"of":"` + step.Of.Name() + `"}`), Values: map[string]any{}}
		if step, known := w.tools["undo"]; known { // what the undo calls
			env.Call.Steps = []session.Call{step}
			env.Call.Fault, env.Call.Changed = step.Fault, step.Changed
		}
	}
	return env
}

// setSigma sets an agent's σ_raw, as a record of its own stream would.
func (w *world) setSigma(did policy.DID, sigma ring.Sigma) {
	w.standings = maps.Clone(w.standings)
	w.standings[did] = agent.Standing{Sigma: sigma}
	w.scores.Stand(w.live, did, w.standings[did])
}

// tellAll answers for everything that is owed.
func tellAll(s *session.State) (c session.Told) {
	for _, o := range s.Owed {
		c.Answers = append(c.Answers, session.Answer{Number: o.Entry.Number, Sigma: ring.Newcomer})
	}
	return c
}

// setStanding sets a standing such as: 0.80 risk=0.35 blacklisted.
func (w *world) setStanding(did policy.DID, l line) {
	w.setSigma(did, ring.MustSigma(l.word(2)))
	s := w.standings[did]
	s.Version = uint64(len(w.log))
	s.Blacklisted = slices.Contains(l.words, "blacklisted")
	if risk := l.named["risk"]; risk != "" {
		s.Risk = ring.MustSigma(risk)
	}
	w.standings[did] = s
	w.scores.Stand(w.live, did, s)
}

// do decides, encodes, stores and applies a command, as the rim does it.
func (w *world) do(by policy.Caller, c session.Command, key string) (session.Outcome, error) {
	w.effects, w.events = nil, nil
	env := w.env(by, c, key)
	before := asJSON(w.live) + asJSON(w.tallies)
	out, err := session.Decide(w.live, &env, c)
	again, _ := session.Decide(w.live, &env, c)
	if after := asJSON(w.live) + asJSON(w.tallies); before != after {
		return out, fault("Decide changed what it read:\n%s\n%s", before, after)
	}
	if diff := cmp.Diff(out, again, plansAside); diff != "" || !bytes.Equal(session.AppendEvents(nil, out.Events), session.AppendEvents(nil, again.Events)) {
		return out, fault("the same command decided twice:\n%s", diff)
	}
	if err != nil {
		return out, err
	}
	for _, t := range out.Tallies {
		w.tallies[t.Agent] = t.Tally
	}
	if len(out.Events) == 0 {
		return out, nil
	}
	if w.live.Lifecycle == session.Archived {
		return out, fault("a record after the last: %v", out.Events)
	}
	if out.Seq != w.live.Seq+1 {
		return out, fault("the answer names record %d, and it is %d", out.Seq, w.live.Seq+1)
	}
	at := session.Stamp{Seq: out.Seq, Time: w.now, Caller: by.DID}
	w.log = append(w.log, w.record(at, by, out.Events))
	w.events, w.effects = out.Events, session.Apply(w.live, at, out.Events)
	w.scores.Follow(w.live, out.Events, w.standings)
	return out, w.check()
}

func (w *world) record(at session.Stamp, by policy.Caller, events []session.Event) []byte {
	r := audit.Record{Stream: audit.SessionPrefix + w.live.ID, Seq: at.Seq, Time: at.Time,
		Caller: audit.Caller{DID: string(by.DID), Role: by.Role.String(), Via: by.Via},
		Trace:  "00-00000000000000000000000000000001-0000000000000001-01", Events: session.AppendEvents(nil, events)}
	if n := len(w.log); n > 0 {
		r.Prev = audit.Leaf(w.log[n-1])
	}
	return r.Append(nil)
}

// plansAside leaves out what a saga's own fields say already.
var plansAside = cmpopts.IgnoreUnexported(session.Saga{}, session.SagaCreated{})

// check holds the log against the state: the fold of the stored bytes is the state, and so is its snapshot.
func (w *world) check() error {
	last, err := audit.ParseRecord(w.log[len(w.log)-1])
	if err != nil {
		return fault("reading back: %v", err)
	}
	if diff := cmp.Diff(string(last.Events), string(session.AppendEvents(nil, w.events))); diff != "" {
		return fault("stored events: %s", diff)
	}
	parsed, err := session.ParseEvents(last.Events)
	if err != nil {
		return fault("reading back: %v", err)
	}
	if diff := cmp.Diff(w.events, parsed, plansAside); diff != "" {
		return fault("events came back otherwise (-recorded +read):\n%s", diff)
	}
	for _, e := range w.events {
		if err := sameJSON(e); err != nil {
			return err
		}
	}
	session.Apply(w.folded, session.Stamp{Seq: last.Seq, Time: last.Time, Caller: policy.DID(last.Caller.DID)}, parsed)
	if err := w.checkScores(); err != nil {
		return err
	}
	if diff := cmp.Diff(w.live, w.folded, plansAside); diff != "" {
		return fault("the fold of the log is not the live state (-live +fold):\n%s", diff)
	}
	var snapshot session.State
	if err := json.Unmarshal([]byte(asJSON(w.live)), &snapshot); err != nil {
		return fault("snapshot: %v", err)
	}
	if diff := cmp.Diff(w.live, &snapshot, plansAside); diff != "" {
		return fault("the snapshot is not the state (-live +snapshot):\n%s", diff)
	}
	return nil
}

// checkScores holds the sums that are kept against those added up.
func (w *world) checkScores() error {
	env := w.env(policy.System, nil, "")
	for did := range w.live.Participants {
		env.Scores = w.scores
		r, kept := w.live.RingOf(&env, did)
		env.Scores = nil
		again, added := w.live.RingOf(&env, did)
		if kept != added || r != again {
			return fault("the σ_eff of %s is kept as %s, and is %s", did, kept, added)
		}
	}
	return nil
}

func fold(log [][]byte) (*session.State, error) {
	s := session.NewState("s1")
	for _, body := range log {
		r, err := audit.ParseRecord(body)
		if err != nil {
			return nil, err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return nil, err
		}
		session.Apply(s, session.Stamp{Seq: r.Seq, Time: r.Time, Caller: policy.DID(r.Caller.DID)}, events)
	}
	return s, nil
}

// reload drops what a process holds beside the log, and the newest records that never reached the disk.
func (w *world) reload(lost int) (err error) {
	w.log = w.log[:len(w.log)-lost]
	w.tallies = map[policy.DID]session.Tally{}
	if w.live, err = fold(w.log); err == nil {
		w.folded, err = fold(w.log)
		w.scores = session.NewScores(w.live, w.standings)
	}
	return err
}

// sameJSON holds the event's own writer against encoding/json: they mean the same but for the type, which only ours writes.
// Times are compared as times, since ours writes one text for each.
func sameJSON(e session.Event) error {
	oracle, err := json.Marshal(e)
	if err != nil {
		return fault("encoding/json: %v", err)
	}
	var ours, theirs map[string]any
	if err := json.Unmarshal(e.Append(nil), &ours); err != nil {
		return fault("%T writes no JSON: %v", e, err)
	}
	if err := json.Unmarshal(oracle, &theirs); err != nil {
		return fault("encoding/json: %v", err)
	}
	delete(ours, "type")
	for _, m := range []map[string]any{ours, theirs} {
		for k, v := range m {
			if text, ok := v.(string); ok {
				if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
					m[k] = t.UTC()
				}
			}
		}
	}
	if diff := cmp.Diff(theirs, ours); diff != "" {
		return fault("%T (-encoding/json +ours):\n%s", e, diff)
	}
	return nil
}

// A broken is an invariant that does not hold, as against a command that cannot be decided.
type broken struct{ what string }

func (b broken) Error() string { return b.what }

func fault(format string, args ...any) error { return broken{fmt.Sprintf(format, args...)} }

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// due is when the rim next gives a Tick: for a deadline of the session, or for refusals that are counted and not written.
func (w *world) due() time.Time {
	due := session.Due(w.live)
	for _, t := range w.tallies {
		if at := t.NextFlush(); !at.IsZero() && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	return due
}

func did(name string) policy.DID { return policy.DID("did:mesh:" + name) }

// caller reads "ann" (an agent), or a role and a name such as "approver:kim".
func caller(text string) policy.Caller {
	role, name, ok := strings.Cut(text, ":")
	if !ok {
		return policy.Agent(did(text))
	}
	var r policy.Role
	if err := r.UnmarshalText([]byte(role)); err != nil {
		panic(err)
	}
	return policy.Caller{DID: did(name), Role: r, Via: "library"}
}

// tool makes a call of words such as: readonly, partial, full, undo, admin, network, files, subprocess, changed,
// resource=…, fault=….
func tool(id string, words []string) (session.Call, error) {
	d, call := action.Descriptor{ID: id}, session.Call{Values: map[string]any{}}
	for _, word := range words {
		value := ""
		if name, v, ok := strings.Cut(word, "="); ok {
			word, value = name, v
		}
		switch word {
		case "none":
		case "readonly":
			d.ReadOnly = true
		case "idempotent":
			d.Idempotent = true
		case "partial":
			d.Reversibility = action.Partial
		case "full":
			d.Reversibility = action.Full
		case "undo":
			d.Undo = []action.Call{{Tool: "undo"}}
		case "admin":
			d.Admin = true
		case "network":
			d.Network = true
		case "files":
			d.Files = true
		case "subprocess":
			d.Subprocess = true
		case "changed":
			call.Changed = true
		case "resource":
			call.Resource = value
		case "fault":
			call.Fault = value
		case "server":
			call.Server = value
		case "window":
			var err error
			if d.UndoWindow, err = time.ParseDuration(value); err != nil {
				return call, err
			}
		case "image": // it was taken
			call.Image, call.Before = action.ImageTaken, action.Image{Bytes: []byte(value)}
		case "absent": // it was taken, and there was nothing
			call.Image, call.Before = action.ImageAbsent, action.Image{Absent: true}
			d.Image = &action.Look{Call: action.Call{Tool: "look"}, Bytes: "{{result.text}}", Absent: "ENOENT"}
			d.UndoAbsent = []action.Call{{Tool: "remove"}}
		case "missing": // it could not be taken
			call.Image, call.ImageFault = action.ImageFailed, "it does not read as text"
		case "untried":
			call.Untried = true
		default:
			return call, fmt.Errorf("an action is not %q", word)
		}
	}
	call.Descriptor, call.Digest = d, d.Digest()
	return call, d.Validate()
}

// show writes an event as a scenario shows it: its type and members, names without "did:mesh:", hashes cut short, times
// since the start.
func show(e session.Event) string {
	var members map[string]any
	raw := e.Append(nil)
	if err := json.Unmarshal(raw, &members); err != nil {
		return err.Error()
	}
	order := memberNames(raw)
	var b strings.Builder
	fmt.Fprint(&b, members["type"])
	for _, name := range order {
		if name != "type" {
			fmt.Fprintf(&b, " %s=%s", name, showValue(members[name]))
		}
	}
	return b.String()
}

func showValue(v any) string {
	switch v := v.(type) {
	case string:
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return since(t)
		}
		if _, err := audit.ParseHash(v); err == nil {
			return v[:8]
		}
		if v = strings.TrimPrefix(v, "did:mesh:"); v == "" || strings.Contains(v, " ") {
			return fmt.Sprintf("%q", v)
		}
		return v
	case []any:
		words := make([]string, len(v))
		for i := range v {
			words[i] = showValue(v[i])
		}
		return "[" + strings.Join(words, " ") + "]"
	case map[string]any:
		var words []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			words = append(words, k+"="+showValue(v[k]))
		}
		return "{" + strings.Join(words, " ") + "}"
	}
	return fmt.Sprint(v)
}

func since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if t.Before(start) {
		return "-" + start.Sub(t).String()
	}
	return "+" + t.Sub(start).String()
}

// memberNames returns the names of an object's members in their order.
func memberNames(object []byte) (names []string) {
	d := json.NewDecoder(bytes.NewReader(object))
	_, _ = d.Token()
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return names
		}
		names = append(names, name.(string))
		var skip json.RawMessage
		if d.Decode(&skip) != nil {
			return names
		}
	}
	return names
}
