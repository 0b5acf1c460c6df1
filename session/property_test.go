package session_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// A witness watches a world and remembers what must never happen twice, or at all.
type witness struct {
	*world
	ids     map[string]bool
	opened  map[string]request // approvals by id: what they were asked for
	granted map[string]session.ApprovalGranted
	args    string // of the call under way
}

// A request is what a grant is good for (SPEC §2 "bound to the digest of the exact arguments, the descriptor and the policy
// version").
type request struct {
	agent   policy.DID
	action  string
	args    string
	version int
}

// watch checks what one command has brought about.
func (w *witness) watch(t *rapid.T, out session.Outcome) {
	for _, e := range w.events {
		switch e := e.(type) {
		case session.Admitted:
			w.fresh(t, e.ID)
			w.spend(t, e)
		case session.ApprovalOpened:
			w.fresh(t, e.ID)
			w.opened[e.ID] = request{e.Agent, e.Action, w.args, w.version}
		case session.ApprovalGranted:
			w.granted[e.ID] = e
		case session.ApprovalDenied:
			delete(w.granted, e.ID)
		case session.ApprovalExpired:
			delete(w.granted, e.ID)
		}
	}
	w.count(t)
}

func (w *witness) fresh(t *rapid.T, id string) {
	if w.ids[id] {
		t.Fatalf("%s was given out before", id)
	}
	w.ids[id] = true
}

// spend holds an admission against the grant it names: given, for exactly this, by who could, not over, not used.
func (w *witness) spend(t *rapid.T, e session.Admitted) {
	needs := e.RequiredRing == ring.Privileged && e.Ring != ring.Root
	if e.Approval == "" {
		if needs {
			t.Fatalf("%s is not reversible and passed without an approval", e.ID)
		}
		return
	}
	grant, ok := w.granted[e.Approval]
	asked := w.opened[e.Approval]
	now := request{e.Agent, e.Action, w.args, w.version}
	if !ok || asked != now || !w.now.Before(grant.Expires) {
		t.Fatalf("%s passed on %s, granted %v for %v; it is %v", e.ID, e.Approval, ok, asked, now)
	}
	if e.Ring == ring.Standard && grant.By == "consensus" {
		t.Fatalf("%s passed in ring 2 on the agents' vote", e.ID)
	}
	delete(w.granted, e.Approval)
}

// count holds the state's counts and bounds.
func (w *witness) count(t *rapid.T) {
	running := map[policy.DID]int{}
	for _, r := range w.live.Running {
		running[r.Agent]++
	}
	for agent, p := range w.live.Participants {
		if p.Running != running[agent] {
			t.Fatalf("%s has %d running, and the state says %d", agent, running[agent], p.Running)
		}
		if size := int64(p.Bucket.Ring.Limits().Burst) * int64(ring.One); p.Bucket.Level < 0 || p.Bucket.Level > size {
			t.Fatalf("%s: bucket %+v", agent, p.Bucket)
		}
	}
	open, kept := map[policy.DID]int{}, map[policy.DID]int{}
	for _, a := range w.live.Approvals {
		kept[a.Agent]++
		if a.Status == session.Open && a.Rules == fmt.Sprint("rules-", w.version) {
			open[a.Agent]++
		}
	}
	for agent := range kept {
		if open[agent] > session.MaxOpenApprovals || kept[agent] > session.MaxKeptApprovals {
			t.Fatalf("%s has %d approvals open, %d kept", agent, open[agent], kept[agent])
		}
	}
	if len(w.live.Participants) > w.live.Config.MaxParticipants {
		t.Fatalf("%d participants", len(w.live.Participants))
	}
	if len(w.live.KeyOrder) != len(w.live.Keys) {
		t.Fatalf("%d keys in order, %d in all", len(w.live.KeyOrder), len(w.live.Keys))
	}
}

// rest ticks until nothing is due, as the rim does.
func (w *witness) rest(t *rapid.T) {
	for range 5 {
		if len(w.live.Owed) > 0 {
			w.perform(t, policy.System, tellAll(w.live), "")
		}
		due := w.due()
		if due.IsZero() || due.After(w.now) {
			return
		}
		w.perform(t, policy.System, session.Tick{}, "")
	}
	t.Fatalf("due at %s for ever, and it is %s", since(w.due()), since(w.now))
}

func (w *witness) perform(t *rapid.T, by policy.Caller, c session.Command, key string) session.Outcome {
	out, err := w.do(by, c, key)
	if b, bad := err.(broken); bad {
		t.Fatalf("%T %+v: %s", c, c, b.what)
	}
	if err == nil {
		w.watch(t, out)
	}
	return out
}

var (
	names  = []string{"ann", "bob", "cem", "dan"}
	scores = []string{"0.30", "0.60", "0.600001", "0.80", "0.95", "0.950001", "1"}
)

// city is a world with tools of all kinds.
func city() *witness {
	w := &witness{world: newWorld(), ids: map[string]bool{}, opened: map[string]request{}, granted: map[string]session.ApprovalGranted{}}
	for id, words := range map[string]string{
		"t.read": "readonly", "t.write": "partial", "t.move": "none", "t.wipe": "admin", "t.net": "partial network resource=https://a.example/x",
		"t.files": "readonly files resource=/srv/a", "t.exec": "partial subprocess", "t.changed": "partial changed", "t.bad": "partial fault=bad",
		"t.denied": "none", "t.asked": "partial",
	} {
		call, err := tool(id, strings.Fields(words))
		if err != nil {
			panic(err)
		}
		w.tools[id] = call
	}
	w.rules = rules{{policy.Verdict{Effect: policy.Deny, Rule: "no"}, "t.denied", ""}, {policy.Verdict{Effect: policy.RequireApproval, Rule: "ask"}, "t.asked", ""}}
	return w
}

var actions = append(slices.Sorted(maps.Keys(city().tools)), "t.unknown", "t.move", "t.move")

func pick[T any](t *rapid.T, what string, from []T) T { return rapid.SampledFrom(from).Draw(t, what) }

// stir performs one random command, or changes what the rim knows.
func (w *witness) stir(t *rapid.T) {
	name := pick(t, "name", names)
	operator, approver := policy.Operator(did("ops")), policy.Approver(did("kim"))
	key := pick(t, "key", []string{"", "", "", "k1", "k2"})
	if rapid.IntRange(0, 3).Draw(t, "act") > 0 {
		by := policy.Agent(did(name))
		if rapid.IntRange(0, 9).Draw(t, "operator") == 0 {
			by = pick(t, "who", []policy.Caller{operator, approver, policy.Agent(did("eve"))})
		}
		w.args = pick(t, "args", []string{"1", "2"})
		w.perform(t, by, session.Act{Action: pick(t, "action", actions), Args: []byte(w.args)}, key)
		return
	}
	id, digest := "apr-0", ""
	if ids := slices.Sorted(maps.Keys(w.live.Approvals)); len(ids) > 0 {
		id = pick(t, "approval", ids)
		digest = w.live.Approvals[id].Digest.String()
	}
	switch rapid.IntRange(0, 18).Draw(t, "command") {
	case 0:
		w.perform(t, operator, session.Join{Agent: did(name)}, key)
	case 1:
		w.perform(t, policy.Agent(did(name)), session.Leave{}, key)
	case 2, 3:
		w.setSigma(did(name), ring.MustSigma(pick(t, "sigma", scores)))
	case 4, 5:
		if ids := slices.Sorted(maps.Keys(w.live.Running)); len(ids) > 0 {
			result := pick(t, "result", []session.Result{session.Done, session.Unsuccessful, session.Uncertain})
			w.perform(t, policy.System, session.Settle{ID: pick(t, "running", ids), Result: result, Why: "why"}, "")
		}
	case 6:
		w.perform(t, pick(t, "by", []policy.Caller{approver, operator}), session.Grant{Approval: id, Digest: digest}, key)
	case 7:
		w.perform(t, approver, session.Deny{Approval: id, Digest: digest}, key)
	case 8, 9:
		w.perform(t, policy.Agent(did(name)), session.Vote{Approval: id, Digest: digest, Against: rapid.IntRange(0, 3).Draw(t, "no") == 0}, "")
	case 10:
		w.now = w.now.Add(pick(t, "pass", []time.Duration{time.Millisecond, time.Second, time.Minute, 16 * time.Minute}))
		if rapid.Bool().Draw(t, "told") {
			w.rest(t)
		}
	case 11:
		w.process++
		w.node += uint64(rapid.IntRange(0, 1).Draw(t, "unclean"))
		w.behind = rapid.IntRange(0, 3).Draw(t, "behind") == 0
		if err := w.reload(0); err != nil {
			t.Fatal(err)
		}
		w.perform(t, policy.System, session.Recover{}, "")
		w.behind = false
	case 12:
		w.version++
		w.operators = rapid.IntRange(1, 2).Draw(t, "operators")
	case 13:
		if rapid.IntRange(0, 9).Draw(t, "end") == 0 {
			w.perform(t, operator, session.Terminate{}, key)
		}
	case 14, 15, 16, 17, 18:
		w.stop(t, did(name), operator)
	}
}

// stop kills or puts in quarantine, or lifts that.
func (w *witness) stop(t *rapid.T, who policy.DID, operator policy.Caller) {
	k := policy.Kill{ID: fmt.Sprint("kil-", len(w.log)), Reason: policy.Manual, By: operator.DID, At: w.now}
	switch rapid.IntRange(0, 5).Draw(t, "stop") {
	case 0:
		k.Session, k.Agent = w.live.ID, who
		w.perform(t, operator, session.Kill{Kill: k}, "")
	case 1, 2:
		w.perform(t, operator, session.LiftKill{Agent: who}, "")
		w.kills = policy.Kills{}
	case 3: // known, and in no record
		k.Scope = pick(t, "scope", []policy.Scope{{Agent: who}, {Agent: who, Session: w.live.ID}, {All: true}})
		w.kills = w.kills.With(k)
	case 4:
		s := w.standings[who]
		s.Quarantine = nil
		if rapid.Bool().Draw(t, "quarantine") {
			s.Quarantine = &agent.Quarantined{Until: w.now.Add(time.Hour), Reasons: []string{"odd"}}
		}
		w.standings = maps.Clone(w.standings)
		w.standings[who] = s
	case 5:
		if rapid.IntRange(0, 9).Draw(t, "end") == 0 {
			k.Session = w.live.ID
			w.perform(t, operator, session.Kill{Kill: k}, "")
		}
	}
}

// stand lets one agent stand behind another, or ends that, or takes what it put up; and tells the agents' streams, or not yet.
func (w *witness) stand(t *rapid.T) {
	operator, name := policy.Operator(did("ops")), pick(t, "name", names)
	switch rapid.IntRange(0, 9).Draw(t, "stand") {
	case 0, 1:
		c := session.Vouch{Vouchee: did(pick(t, "vouchee", names)), Bond: ring.MustSigma(pick(t, "bond", []string{"0", "0.000001", "0.20", "0.60"}))}
		if rapid.Bool().Draw(t, "expires") {
			c.Expires = w.now.Add(time.Minute)
		}
		w.perform(t, policy.Agent(did(name)), c, "")
	case 2:
		if ids := slices.Sorted(maps.Keys(w.live.Bonds)); len(ids) > 0 {
			w.perform(t, operator, session.Withdraw{ID: pick(t, "withdrawn", ids)}, "")
		}
	case 3:
		w.perform(t, operator, session.Slash{Agent: did(name)}, "")
	case 4, 5:
		told := tellAll(w.live)
		for i := range told.Answers {
			a := &told.Answers[i]
			a.Sigma = ring.MustSigma(pick(t, "after", []string{"0", "0.45", "0.80"}))
			switch rapid.IntRange(0, 4).Draw(t, "answer") {
			case 0:
				a.Code = policy.ExposureExceeded
			case 1:
				a.Lost = 200_000
			}
		}
		w.perform(t, policy.System, told, "")
	}
}

func (w *witness) open(t *rapid.T) {
	operator := policy.Operator(did("ops"))
	cfg := session.Config{MaxParticipants: 3, MaxDuration: 2 * time.Hour}
	if rapid.Bool().Draw(t, "eventual") {
		cfg.Consistency = session.Eventual
	}
	w.perform(t, operator, session.Create{Config: cfg}, "")
	for _, name := range names[:3] {
		w.setSigma(did(name), ring.MustSigma(pick(t, "sigma", scores)))
		w.perform(t, operator, session.Join{Agent: did(name)}, "")
	}
	w.perform(t, operator, session.Activate{}, "")
}

// Whatever is asked in whatever order: the fold of the log is the live state, the snapshot too, Decide changes nothing and
// answers the same twice (all of it in world.do), ids are given out once, a grant lets pass once and only what it was given
// for, counts match, everything stays in its bounds, and nothing is due for ever.
func TestWhateverIsAskedTheInvariantsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := city()
		w.open(t)
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			w.stir(t)
			w.stand(t)
		}
		w.now = w.now.Add(3 * time.Hour) // its end, and the grace time's, and the last outcome's
		w.rest(t)
		w.now = w.now.Add(grace)
		w.rest(t)
		w.now = w.now.Add(patience)
		w.rest(t)
		if w.live.Lifecycle != session.Archived || !session.Due(w.live).IsZero() {
			t.Fatalf("after all this time it is %s", w.live.Lifecycle)
		}
	})
}

const (
	grace    = 30 * time.Second // SPEC §1 "End"
	patience = 5 * time.Minute
)

// SPEC §2 "Admission", once more, stupidly: the questions in their order, in the words of the page. The rate is left out by
// never calling more than once a second.
func admissionOracle(w *world, by policy.Caller, name string) (code policy.Code, needsApproval bool) {
	s := w.live
	_, participant := s.Participants[by.DID]
	operator := by.Role == policy.OperatorRole
	sigma := 0.5
	if m, ok := w.standings[by.DID]; ok {
		sigma = float64(m.Sigma) / 1e6
	}
	r := 3
	switch {
	case operator:
		r = 0
	case sigma < 0.6: // min_sigma_eff
	case sigma > 0.95:
		r = 1
	case sigma > 0.60:
		r = 2
	}
	running := 0
	for _, a := range s.Running {
		if a.Agent == by.DID {
			running++
		}
	}
	_, killedHere := s.Kills[by.DID]
	killed, killedAnywhere := w.kills.Of(s.ID, by.DID)
	call, known := w.tools[name]
	d := call.Descriptor
	required := 2
	switch {
	case d.Admin:
		required = 0
	case d.Reversibility.String() == "none" && !d.ReadOnly:
		required = 1
	case d.ReadOnly:
		required = 3
	}
	switch {
	case s.Lifecycle != session.Active || !w.now.Before(s.Ends):
		return "session_not_active", false
	case !operator && by.Role != policy.AgentRole:
		return "forbidden", false
	case !operator && !participant:
		return "not_a_participant", false
	case killedHere || killedAnywhere && killed.Agent != "":
		return "agent_killed", false
	case killedAnywhere:
		return "killed_all", false
	case running >= []int{32, 16, 8, 2}[r]:
		return "concurrency_exceeded", false
	case !known:
		return "unknown_action", false
	case call.Changed:
		return "tool_changed", false
	case call.Fault != "":
		return "invalid_arguments", false
	case w.standings[by.DID].Quarantine != nil && !d.ReadOnly:
		return "agent_quarantined", false
	case !operator && required == 0:
		return "ring_insufficient", false
	case !operator && r > required && !(required == 1 && r == 2):
		return "ring_insufficient", false
	case r >= 2 && (d.Network || d.Files || d.Subprocess): // this session lists nothing
		return "capability_denied", false
	case name == "t.denied":
		return "policy_denied", false
	case name == "t.asked", required == 1 && !operator, required == 0 && w.operators > 1:
		return "", true
	}
	return "ok", false
}

func TestAdmissionAgreesWithTheStupidOne(t *testing.T) {
	afterApproval := []policy.Code{"ok", "approval_required", "approval_denied", "approval_expired", "witness_required", "quota_exceeded"}
	rapid.Check(t, func(t *rapid.T) {
		w := city()
		w.open(t)
		for range rapid.IntRange(1, 30).Draw(t, "commands") {
			w.stir(t)
			w.now = w.now.Add(time.Minute)
			by := policy.Agent(did(pick(t, "name", names)))
			if rapid.IntRange(0, 4).Draw(t, "who") == 0 {
				by = policy.Operator(did("ops"))
			}
			name := pick(t, "action", actions)
			want, needs := admissionOracle(w.world, by, name)
			w.args = "3"
			out := w.perform(t, by, session.Act{Action: name, Args: []byte("3")}, "")
			if needs && !slices.Contains(afterApproval, out.Code) || !needs && out.Code != want {
				t.Fatalf("%s for %s: %s (%s), and by the page %s (approval %v)", name, by.DID, out.Code, out.Reason, want, needs)
			}
		}
	})
}

// The same commands give the same bytes, whatever order the maps of a process are walked in.
func TestTheSameScriptGivesTheSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Int().Draw(t, "seed")
		run := func() (log [][]byte) {
			return rapid.Custom(func(t *rapid.T) [][]byte {
				w := city()
				w.open(t)
				for range 25 {
					w.stir(t)
				}
				return w.log
			}).Example(seed)
		}
		if a, b := run(), run(); !slices.EqualFunc(a, b, bytes.Equal) {
			t.Fatalf("two logs:\n%s\n%s", bytes.Join(a, []byte("\n")), bytes.Join(b, []byte("\n")))
		}
	})
}

// SPEC §2 "Everything has a bound": what is decided and not used is kept for 64 calls of an agent, not for more.
func TestDecidedApprovalsAreBounded(t *testing.T) {
	w := city()
	play(t, w.world, "active ann=0.97 max_duration=5h approval_ttl=1h")
	for i := range session.MaxKeptApprovals {
		w.now = w.now.Add(time.Second)
		out := play(t, w.world, fmt.Sprintf("act ann t.move args=%d", i))
		if out.ID == "" {
			t.Fatalf("approval %d: %s", i, out.Reason)
		}
		play(t, w.world, fmt.Sprintf("deny %s by=approver:kim", out.ID))
	}
	if out := play(t, w.world, "act ann t.move args=more"); out.Code != policy.QuotaExceeded {
		t.Errorf("one more: %s", out.Code)
	}
	w.now = w.now.Add(time.Hour)
	if out := play(t, w.world, "act ann t.move args=more"); out.Code != policy.ApprovalRequired {
		t.Errorf("when they are over: %s", out.Code)
	}
	if len(w.live.Approvals) != 1 {
		t.Errorf("%d approvals are kept", len(w.live.Approvals))
	}
}

// docs/design.md "Entities": 10,000 keys a session; the oldest is forgotten first.
func TestKeysAreBounded(t *testing.T) {
	w := newWorld()
	play(t, w, "active ann=0.97")
	use := func(i int) { // the fold alone: ten thousand calls would be checked ten thousand times
		session.Apply(w.live, session.Stamp{Seq: w.live.Seq + 1, Time: w.now, Caller: did("ann")},
			[]session.Event{session.KeyUsed{Caller: did("ann"), Key: fmt.Sprint("k", i)}})
	}
	for i := range session.MaxKeys + 1 {
		use(i)
	}
	_, first := w.live.Keys["did:mesh:ann k0"]
	_, second := w.live.Keys["did:mesh:ann k1"]
	if len(w.live.Keys) != session.MaxKeys || first || !second {
		t.Errorf("%d keys, the first %v, the second %v", len(w.live.Keys), first, second)
	}
	w.now = w.now.Add(24 * time.Hour)
	use(0)
	if len(w.live.Keys) != 1 || len(w.live.KeyOrder) != 1 {
		t.Errorf("after a day %d keys", len(w.live.Keys))
	}
}

// play performs one line of a scenario.
func play(t *testing.T, w *world, text string) session.Outcome {
	t.Helper()
	p := &player{world: w}
	if strings.HasPrefix(text, "active") {
		if _, err := p.perform(text); err != nil {
			t.Fatal(err)
		}
		return session.Outcome{}
	}
	l := parseLine(text)
	by, c, err := p.command(l)
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.do(by, c, l.named["key"])
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}
