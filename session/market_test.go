package session_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// A market is several sessions and the streams of the agents in them, with what carries entries from one to the other: late, in
// any order of sessions, some of it twice, as after a crash. What SPEC §3 promises of bonds must hold after every step.
type market struct {
	t        *rapid.T
	now      time.Time
	sessions []*stall
	agents   map[policy.DID]*agent.State
	clips    map[string]map[policy.DID]int // by session and slash: how often each lost a bond
	reserved map[string]ring.Sigma         // by bond, as it was set aside
}

type stall struct {
	m       *market
	state   *session.State
	tallies map[policy.DID]session.Tally
}

var traders = []string{"ann", "bob", "cem", "dan", "eve", "fay"}

func newMarket(t *rapid.T) *market {
	m := &market{t: t, now: start, agents: map[policy.DID]*agent.State{}, clips: map[string]map[policy.DID]int{}, reserved: map[string]ring.Sigma{}}
	for _, name := range traders {
		m.agents[did(name)] = &agent.State{DID: did(name)}
	}
	for i := range 3 {
		s := &stall{m: m, state: session.NewState(fmt.Sprint("s", i)), tallies: map[policy.DID]session.Tally{}}
		m.sessions = append(m.sessions, s)
		s.do(policy.Operator(did("ops")), session.Create{Config: session.Config{MaxDuration: session.MaxDuration}})
		for _, name := range traders {
			s.do(policy.Operator(did("ops")), session.Join{Agent: did(name)})
		}
		s.do(policy.Operator(did("ops")), session.Activate{})
	}
	return m
}

func (s *stall) env(by policy.Caller) session.Env {
	standings := map[policy.DID]agent.Standing{}
	for did, a := range s.m.agents {
		standings[did] = a.Standing()
	}
	d := action.Descriptor{ID: "write", Reversibility: action.Partial}
	return session.Env{Now: s.m.now, Caller: by, Standings: standings, Random: sha256.Sum256(nil), Incarnation: "p1", NodeEpoch: 1, Operators: 1,
		Tallies: s.tallies, Call: &session.Call{Descriptor: d, Digest: d.Digest(), Args: []byte(`{}`)}}
}

func (s *stall) do(by policy.Caller, c session.Command) session.Outcome {
	env := s.env(by)
	out, err := session.Decide(s.state, &env, c)
	if err != nil {
		s.m.t.Fatalf("%T: %v", c, err)
	}
	for _, t := range out.Tallies {
		s.tallies[t.Agent] = t.Tally
	}
	if len(out.Events) == 0 {
		return out
	}
	for _, e := range out.Events {
		if f, ok := e.(session.BondForfeited); ok {
			if f.Level > 2 {
				s.m.t.Fatalf("a cascade goes %d levels deep", f.Level)
			}
			key := s.state.ID + "/" + f.Slash
			if s.m.clips[key] == nil {
				s.m.clips[key] = map[policy.DID]int{}
			}
			if s.m.clips[key][f.Voucher]++; s.m.clips[key][f.Voucher] > 1 {
				s.m.t.Fatalf("the slash %s touches %s twice", key, f.Voucher)
			}
		}
	}
	session.Apply(s.state, session.Stamp{Seq: out.Seq, Time: s.m.now, Caller: by.DID}, out.Events)
	return out
}

// enter is an agent's stream.
func (m *market) enter(did policy.DID, c agent.Command) agent.Outcome {
	a := m.agents[did]
	before := a.Sigma()
	out := agent.Decide(a, agent.Env{Now: m.now, Caller: policy.System, Operators: 1}, c)
	if len(out.Events) == 0 {
		return out
	}
	agent.Apply(a, out.Seq, m.now, out.Events)
	for _, e := range out.Events {
		switch e := e.(type) {
		case agent.BondReserved:
			m.reserved[agent.BondKey(e.Session, e.Bond)] = e.Amount
		case agent.Moved:
			if e.Kind != agent.Clip {
				continue
			}
			if most := m.reserved[agent.BondKey(e.Session, e.Bond)]; e.Lost > most || before-min(before, a.Sigma()) > e.Lost {
				m.t.Fatalf("%s lost %s of σ and a bond of %s, and had bonded %s", did, before-a.Sigma(), e.Lost, most)
			}
		}
	}
	return out
}

// tell carries what a session owes: part of it perhaps, and recorded there perhaps not, so that it is told again.
func (s *stall) tell(part int, recorded bool) {
	var told session.Told
	for _, o := range s.state.Owed[:min(part, len(s.state.Owed))] {
		out := s.m.enter(o.Agent, agent.Enter{Entry: o.Entry})
		a := session.Answer{Number: o.Entry.Number, Sigma: out.Sigma, Lost: out.Lost}
		if !out.Allowed {
			a.Code, a.Why = out.Code, out.Reason
		}
		told.Answers = append(told.Answers, a)
	}
	if recorded && len(told.Answers) > 0 {
		s.do(policy.System, told)
	}
}

func (m *market) step() {
	t := m.t
	s := m.sessions[rapid.IntRange(0, len(m.sessions)-1).Draw(t, "session")]
	who := did(rapid.SampledFrom(traders).Draw(t, "who"))
	ops := policy.Operator(did("ops"))
	switch rapid.IntRange(0, 15).Draw(t, "step") {
	case 0, 1, 2, 3:
		c := session.Vouch{Vouchee: did(rapid.SampledFrom(traders).Draw(t, "vouchee")), Bond: ring.Sigma(rapid.IntRange(0, 400_000).Draw(t, "bond"))}
		if rapid.IntRange(0, 3).Draw(t, "expires") == 0 {
			c.Expires = m.now.Add(time.Minute)
		}
		s.do(policy.Agent(who), c)
	case 4, 5, 6, 7:
		s.tell(rapid.IntRange(1, 20).Draw(t, "part"), rapid.IntRange(0, 4).Draw(t, "recorded") > 0)
	case 8:
		sigma := ring.Sigma(rapid.IntRange(0, 1_000_000).Draw(t, "sigma"))
		m.enter(who, agent.SetSigma{Sigma: sigma, Source: agent.FromOperator})
	case 9:
		if ids := slices.Sorted(maps.Keys(s.state.Bonds)); len(ids) > 0 {
			s.do(ops, session.Withdraw{ID: rapid.SampledFrom(ids).Draw(t, "bond")})
		}
	case 10:
		s.do(policy.Agent(who), session.Act{Action: "write"})
	case 11:
		if ids := slices.Sorted(maps.Keys(s.state.Running)); len(ids) > 0 {
			s.do(policy.System, session.Settle{ID: rapid.SampledFrom(ids).Draw(t, "running"), Result: session.Done})
		}
	case 12:
		s.do(ops, session.Slash{Agent: who})
	case 13:
		m.enter(who, agent.Reinstate{Sigma: new(ring.Sigma(rapid.IntRange(0, 1_000_000).Draw(t, "sigma")))})
	case 14:
		if s.state.Participants[who] != nil {
			s.do(ops, session.Leave{Agent: who})
		} else {
			s.do(ops, session.Join{Agent: who})
		}
	case 15:
		m.now = m.now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
		s.do(policy.System, session.Tick{})
	}
}

// check holds the market against SPEC §3.
func (m *market) check() {
	for did, a := range m.agents {
		sum := ring.Sigma(0)
		for _, b := range a.Bonds {
			sum += b.Amount
		}
		if sum > ring.Sigma(uint64(a.Sigma())*80/100) {
			m.t.Fatalf("%s has bonded %s with σ %s: more than 80 %%", did, sum, a.Sigma())
		}
		if a.Sigma() > ring.One || a.Risk > ring.One || a.Blacklisted && a.Sigma() > 0 {
			m.t.Fatalf("%+v", a)
		}
	}
	for _, s := range m.sessions {
		env := s.env(policy.System)
		for id, b := range s.state.Bonds {
			has := slices.ContainsFunc(m.agents[b.Voucher].Bonds, func(r agent.Bond) bool { return r.ID == id && r.Session == s.state.ID })
			if b.Status != session.BondRequested && !has {
				m.t.Fatalf("%s/%s is %s, and %s has set nothing aside", s.state.ID, id, b.Status, b.Voucher)
			}
		}
		for did := range s.state.Participants {
			raw, best := m.agents[did].Sigma(), ring.Sigma(0)
			for _, b := range s.state.Bonds {
				if b.Vouchee == did && b.Status == session.BondActive {
					best = max(best, m.agents[b.Voucher].Sigma())
				}
			}
			if _, eff := s.state.RingOf(&env, did); eff > max(raw, best) {
				m.t.Fatalf("%s has σ_eff %s in %s, and σ_raw %s; its best voucher %s", did, eff, s.state.ID, raw, best)
			}
		}
		if at := circle(s.state); at != "" {
			m.t.Fatalf("%s stands behind itself", at)
		}
	}
}

// circle returns an agent that stands behind itself.
func circle(s *session.State) policy.DID {
	for _, name := range traders {
		at := map[policy.DID]bool{did(name): true}
		for range traders {
			next := map[policy.DID]bool{}
			for _, b := range s.Bonds {
				if at[b.Voucher] && b.Status != session.BondAnswering {
					next[b.Vouchee] = true
				}
			}
			if next[did(name)] {
				return did(name)
			}
			at = next
		}
	}
	return ""
}

// Once all is told, what is set aside is what stands in the sessions: neither a bond without collateral, nor collateral locked for ever.
func (m *market) settle() {
	for range 10 {
		for _, s := range m.sessions {
			s.tell(1000, true)
		}
	}
	there := map[string]bool{}
	for _, s := range m.sessions {
		if len(s.state.Owed) > 0 || len(s.state.Slashes) > 0 {
			m.t.Fatalf("%s never comes to rest: %+v", s.state.ID, s.state.Owed)
		}
		for id, b := range s.state.Bonds {
			there[agent.BondKey(s.state.ID, id)] = true
			if b.Status == session.BondRequested {
				m.t.Fatalf("%s/%s is never decided", s.state.ID, id)
			}
		}
	}
	for did, a := range m.agents {
		for _, b := range a.Bonds {
			key := agent.BondKey(b.Session, b.ID)
			if !there[key] {
				m.t.Fatalf("%s has %s locked for %s, which is no more", did, b.Amount, key)
			}
			delete(there, key)
		}
	}
	if len(there) > 0 {
		m.t.Fatalf("without collateral: %v", there)
	}
}

func TestBondsAreWhatTheyAreBackedBy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMarket(t)
		for _, name := range traders {
			m.enter(did(name), agent.SetSigma{Sigma: ring.Sigma(rapid.IntRange(400_000, 1_000_000).Draw(t, "sigma")), Source: agent.FromOperator})
		}
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			m.step()
			m.check()
		}
		m.settle()
		m.check()
		for _, s := range m.sessions {
			s.do(policy.Operator(did("ops")), session.Terminate{})
			m.now = m.now.Add(grace)
			s.do(policy.System, session.Tick{})
			m.now = m.now.Add(patience)
			for range 4 {
				s.do(policy.System, session.Tick{})
				s.tell(1000, true)
			}
			if s.state.Lifecycle != session.Archived {
				t.Fatalf("%s does not end: %+v", s.state.ID, s.state.Owed)
			}
		}
		for did, a := range m.agents {
			if len(a.Bonds) > 0 {
				t.Fatalf("%s has bonds outstanding after all sessions: %+v", did, a.Bonds)
			}
		}
	})
}

// SPEC §3's abuse: a ring or a star of newcomers who vouch for each other gain nothing, whatever they try, in however many sessions.
func TestNewcomersGainNothingByVouching(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMarket(t)
		for i := range rapid.IntRange(1, 60).Draw(t, "vouches") {
			s := m.sessions[i%len(m.sessions)]
			voucher, vouchee := rapid.SampledFrom(traders).Draw(t, "voucher"), rapid.SampledFrom(traders).Draw(t, "vouchee")
			s.do(policy.Agent(did(voucher)), session.Vouch{Vouchee: did(vouchee), Bond: ring.Sigma(rapid.IntRange(0, 1_000_000).Draw(t, "bond"))})
			s.tell(100, true)
			env := s.env(policy.System)
			for _, name := range traders {
				if r, eff := s.state.RingOf(&env, did(name)); r != ring.Sandbox || eff != ring.Newcomer {
					t.Fatalf("%s is in ring %d with %s", name, r, eff)
				}
			}
		}
	})
}

// SPEC §3: "ω here is the session's vouch weight, never the action's, … and no declaration can steer it": whatever an action says of
// itself, no σ moves, neither raw nor in the session.
func TestDeclaringRiskierOrSaferMovesNoSigma(t *testing.T) {
	w := newWorld()
	play(t, w, "active amy=0.90 new=0.50")
	play(t, w, "vouch amy new 0.20")
	play(t, w, "told 0.90")
	for _, words := range [][]string{{"none"}, {"partial"}, {"full", "undo"}, {"readonly"}, {"admin"}, {"network"}, {"subprocess"}} {
		call, err := tool("t", words)
		if err != nil {
			t.Fatal(err)
		}
		w.tools["t"] = call
		out, err := w.do(policy.Agent(did("new")), session.Act{Action: "t"}, "")
		if err != nil || out.SigmaEff.String() != "0.63" {
			t.Errorf("%v: σ_eff %s, %v", words, out.SigmaEff, err)
		}
		if len(w.live.Owed) > 0 {
			t.Errorf("%v: a declaration owes an entry: %+v", words, w.live.Owed)
		}
		w.now = w.now.Add(time.Second)
	}
}

// SPEC §3 "Slashing", in its own words: "vouchee → 0; each voucher of this session loses its bond …; a voucher whom this takes to ≤ 0.50
// has its own vouchers clipped in turn, at most 2 levels deep, each agent once. Nobody loses more than it bonded" — whoever is told
// late, and twice.
func TestCascadeIsWhatThePageSays(t *testing.T) {
	var deep, spared, third int
	rapid.Check(t, func(t *rapid.T) {
		m := newMarket(t)
		s := m.sessions[0]
		sigma := map[policy.DID]int{}
		for i, name := range traders { // the first has the least, so that each can stand behind those before it
			sigma[did(name)] = 590_000 + i*40_000 + rapid.IntRange(0, 30_000).Draw(t, "sigma")
			m.enter(did(name), agent.SetSigma{Sigma: ring.Sigma(sigma[did(name)]), Source: agent.FromOperator})
		}
		type bond struct {
			voucher policy.DID
			amount  int
		}
		behind := map[policy.DID][]bond{}
		line := rapid.Bool().Draw(t, "line") // each stands behind the one before it, with so much that it falls too
		for pair := range len(traders) * len(traders) {
			if pair/6 <= pair%6 || line && pair/6 != pair%6+1 || !line && rapid.IntRange(0, 2).Draw(t, "vouches") == 0 {
				continue
			}
			voucher, vouchee := did(traders[pair/6]), did(traders[pair%6])
			amount := rapid.SampledFrom([]int{1, 90_000, 130_000, 180_000, 250_000}).Draw(t, "bond")
			if line {
				amount = 250_000
			}
			s.do(policy.Agent(voucher), session.Vouch{Vouchee: vouchee, Bond: ring.Sigma(amount)})
			before := len(m.agents[voucher].Bonds)
			s.tell(100, true)
			if len(m.agents[voucher].Bonds) > before {
				behind[vouchee] = append(behind[vouchee], bond{voucher, amount})
			}
		}
		slashed := did(rapid.SampledFrom(traders[:3]).Draw(t, "slashed"))
		touched, front := []policy.DID{slashed}, []policy.DID{slashed}
		sigma[slashed] = 0
		for level := 1; level <= 2; level++ {
			var next []policy.DID
			for _, fallen := range front {
				for _, b := range behind[fallen] {
					if slices.Contains(touched, b.voucher) {
						spared++
						continue
					}
					touched = append(touched, b.voucher)
					if sigma[b.voucher] = max(sigma[b.voucher]-b.amount, 50_000); sigma[b.voucher] <= 500_000 {
						next = append(next, b.voucher)
					}
					if level == 2 {
						deep++
					}
				}
			}
			front = next
		}
		for _, fallen := range front {
			third += len(behind[fallen])
		}
		s.do(policy.Operator(did("ops")), session.Slash{Agent: slashed})
		for range rapid.IntRange(0, 6).Draw(t, "late") {
			s.tell(rapid.IntRange(1, 4).Draw(t, "part"), rapid.Bool().Draw(t, "recorded"))
		}
		m.settle()
		m.check()
		for who, want := range sigma {
			if got := int(m.agents[who].Sigma()); got != want {
				t.Fatalf("the slash of %s leaves %s with %d, and the page with %d; touched %v", slashed, who, got, want, touched)
			}
		}
	})
	if deep == 0 || spared == 0 || third == 0 {
		t.Errorf("%d clips on the second level, %d who were touched already, %d on a third: the test does not see them", deep, spared, third)
	}
}

// SPEC §3: "total bonded ≤ 80 % of σ across all sessions (two vouches at once never spend the same collateral)": three sessions ask before
// any of them is answered, each for what would do alone, and the answers come in any order, some of them twice.
func TestTwoVouchesAtOnceNeverSpendTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMarket(t)
		fay, sigma := did("fay"), rapid.IntRange(700_000, 1_000_000).Draw(t, "sigma")
		m.enter(fay, agent.SetSigma{Sigma: ring.Sigma(sigma), Source: agent.FromOperator})
		most := sigma * 8 / 10
		for _, s := range m.sessions {
			bond := rapid.IntRange(most/2+1, most).Draw(t, "bond") // two of them are more than there is
			if out := s.do(policy.Agent(fay), session.Vouch{Vouchee: did("ann"), Bond: ring.Sigma(bond)}); !out.Allowed {
				t.Fatalf("%+v", out.Decision)
			}
		}
		for range 6 {
			rapid.SampledFrom(m.sessions).Draw(t, "answered").tell(1, rapid.Bool().Draw(t, "recorded"))
			m.check()
		}
		m.settle()
		m.check()
		counted := 0
		for _, s := range m.sessions {
			for _, b := range s.state.Bonds {
				if b.Status == session.BondActive {
					counted++
				}
			}
		}
		if counted != 1 || len(m.agents[fay].Bonds) != 1 {
			t.Fatalf("%d vouches count, and %d bonds are set aside", counted, len(m.agents[fay].Bonds))
		}
	})
}
