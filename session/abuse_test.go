package session_test

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// A gang is agents that do whatever they can to each other's advantage, and what must hold all the same (the issue's "Abuse that
// must fail").
type gang struct {
	*world
	lone   map[string]opening       // approvals by id, as they were opened
	levels map[policy.DID]*big.Rat  // the fraction of its bucket that each agent has had last, and
	at     map[policy.DID]time.Time // when
}

// An opening is what was so when an approval was opened.
type opening struct {
	agent policy.DID
	may   map[policy.DID]bool // who may vote, by SPEC's words
}

func newGang() *gang {
	g := &gang{world: city().world, lone: map[string]opening{}, levels: map[policy.DID]*big.Rat{}, at: map[policy.DID]time.Time{}}
	cfg := session.Config{MaxParticipants: 6, MaxDuration: 5 * time.Hour}
	g.must(policy.Operator(did("ops")), session.Create{Config: cfg})
	return g
}

func (g *gang) must(by policy.Caller, c session.Command) session.Outcome {
	out, err := g.do(by, c, "")
	if err != nil {
		panic(err)
	}
	return out
}

// root follows the parents, in SPEC's words and not by the product's own way.
func (g *gang) root(did policy.DID) policy.DID {
	for range 10 {
		p := g.live.Participants[did]
		if p == nil || p.Parent == "" {
			return did
		}
		did = p.Parent
	}
	panic("a circle of parents")
}

// electorate is SPEC §2's: "ring ≤ 2 by own score; not the proposer, its ancestors or descendants, nor bonded with it", and "for
// votes a child is its parent".
func (g *gang) electorate(of policy.DID) map[policy.DID]bool {
	may := map[policy.DID]bool{}
	for did, p := range g.live.Participants {
		own, known := g.standings[did]
		if p.Parent != "" || g.root(of) == did || !known || own.Sigma <= 600_000 {
			continue
		}
		tied := false
		for _, b := range g.live.Bonds {
			ends := []policy.DID{b.Voucher, b.Vouchee}
			tied = tied || slices.Contains(ends, did) && slices.Contains(ends, g.root(of))
		}
		may[did] = !tied
	}
	return may
}

func (g *gang) step(t *rapid.T, by policy.Caller, c session.Command) session.Outcome {
	var proposer policy.DID
	if _, asks := c.(session.Act); asks {
		proposer = by.DID
	}
	may := map[policy.DID]bool{}
	if proposer != "" {
		may = g.electorate(proposer)
	}
	votes := map[string][]policy.DID{}
	for id, ap := range g.live.Approvals {
		votes[id] = slices.Clone(ap.For)
	}
	out, err := g.do(by, c, "")
	if b, bad := err.(broken); bad {
		t.Fatalf("%T %+v: %s", c, c, b.what)
	}
	for _, e := range g.events {
		switch e := e.(type) {
		case session.ApprovalOpened:
			g.lone[e.ID] = opening{e.Agent, may}
			for _, elector := range e.Electors {
				if !may[elector] {
					t.Fatalf("%s is an elector of %s's proposal", elector, e.Agent)
				}
			}
		case session.ApprovalGranted:
			g.checkGrant(t, e, append(votes[e.ID], by.DID))
		case session.RingElevated:
			g.checkSponsor(t, e, by)
		}
	}
	g.check(t)
	return out
}

func (g *gang) checkGrant(t *rapid.T, e session.ApprovalGranted, voters []policy.DID) {
	if e.By != "consensus" {
		return
	}
	open := g.lone[e.ID]
	roots := map[policy.DID]bool{}
	for _, voter := range voters {
		if !open.may[voter] {
			t.Fatalf("%s was granted by the vote of %s, who had none", e.ID, voter)
		}
		roots[g.root(voter)] = true
	}
	if len(roots) < 2 {
		t.Fatalf("%s was granted by one alone: %v", e.ID, voters)
	}
}

func (g *gang) checkSponsor(t *rapid.T, e session.RingElevated, by policy.Caller) {
	switch {
	case e.Ring == ring.Root:
		t.Fatalf("%s was elevated to ring 0", e.Agent)
	case g.root(by.DID) == g.root(e.Agent):
		t.Fatalf("%s was sponsored by %s, which answers as one with it", e.Agent, by.DID)
	case by.Role == policy.AgentRole && (e.Ring != ring.Standard || g.standings[by.DID].Sigma <= 600_000):
		t.Fatalf("%s was sponsored to ring %d by %s of σ %s", e.Agent, e.Ring, by.DID, g.standings[by.DID].Sigma)
	case g.now.Add(3600 * time.Second).Before(e.Until):
		t.Fatalf("%s is elevated until %s", e.Agent, since(e.Until))
	}
}

// check holds what must hold after every command.
func (g *gang) check(t *rapid.T) {
	env := g.env(policy.System, session.Tick{}, "")
	for _, did := range slices.Sorted(maps.Keys(g.live.Participants)) {
		p := g.live.Participants[did]
		r, score := g.live.RingOf(&env, did)
		if p.Parent != "" {
			above, most := g.live.RingOf(&env, p.Parent)
			if r < min(above+1, ring.Sandbox) || score > most {
				t.Fatalf("%s is in ring %d with σ %s, and its parent %s in ring %d with %s", did, r, score, p.Parent, above, most)
			}
		}
		if p.Held > r {
			t.Fatalf("%s is held to ring %d and is in ring %d", did, p.Held, r)
		}
		if own := ring.ByScore(score); r < own && r < ring.Sandbox {
			e := g.live.Elevations[did]
			if e == nil || !g.now.Before(e.Until) {
				t.Fatalf("%s is in ring %d, by score in %d, and not elevated", did, r, own)
			}
		}
		g.checkBucket(t, did, p)
	}
	if len(g.live.Participants) > g.live.Config.MaxParticipants {
		t.Fatalf("%d participants", len(g.live.Participants))
	}
}

// checkBucket holds a bucket to its fraction: it grows with time alone, whatever the ring does meanwhile and who leaves and returns.
func (g *gang) checkBucket(t *rapid.T, did policy.DID, p *session.Participant) {
	if p.Bucket.At.IsZero() {
		return
	}
	level := big.NewRat(p.Bucket.Level, int64(p.Bucket.Ring.Limits().Burst)*int64(ring.One))
	was, when := g.levels[did], g.at[did]
	if was != nil && when.Equal(p.Bucket.At) && level.Cmp(was) > 0 {
		t.Fatalf("the bucket of %s has grown from %s to %s without time", did, was.FloatString(6), level.FloatString(6))
	}
	g.levels[did], g.at[did] = level, p.Bucket.At
}

var members = []string{"ann", "bob", "cem", "dan", "eve", "kid", "cub"}

func (g *gang) scheme(t *rapid.T) {
	name := pick(t, "name", members)
	by, other := policy.Agent(did(name)), did(pick(t, "other", members))
	operator, approver := policy.Operator(did("ops")), policy.Approver(did("kim"))
	switch rapid.IntRange(0, 19).Draw(t, "scheme") {
	case 0:
		g.setSigma(did(name), ring.MustSigma(pick(t, "sigma", []string{"0.30", "0.55", "0.60", "0.70", "0.86", "0.97", "0.97", "1"})))
	case 2, 3:
		g.step(t, by, session.Join{Agent: other})
	case 4:
		g.step(t, operator, session.Join{Agent: other})
	case 5:
		g.step(t, by, session.Leave{})
	case 6, 7:
		g.step(t, by, session.Elevate{Ring: ring.Ring(rapid.IntRange(0, 3).Draw(t, "ring")), For: pick(t, "for", []time.Duration{0, time.Second, time.Minute, 9 * time.Hour})})
	case 8, 9, 10:
		g.ballot(t, pick(t, "who", []policy.Caller{by, by, by, approver}))
	case 11:
		if ids := slices.Sorted(maps.Keys(g.live.Elevations)); len(ids) > 0 {
			g.step(t, pick(t, "who", []policy.Caller{by, operator}), session.EndElevation{ID: g.live.Elevations[ids[0]].ID})
		}
	case 1, 12:
		g.step(t, by, session.Vouch{Vouchee: other})
		g.step(t, policy.System, tellAll(g.live))
	case 13:
		g.step(t, operator, session.LiftDemotion{Agent: other})
	case 14:
		g.now = g.now.Add(pick(t, "pass", []time.Duration{time.Second, time.Minute, 6 * time.Minute, 20 * time.Minute}))
		g.step(t, policy.System, session.Tick{})
	case 15:
		if ids := slices.Sorted(maps.Keys(g.live.Running)); len(ids) > 0 {
			g.step(t, policy.System, session.Settle{ID: ids[0], Result: session.Done})
		}
	default:
		g.step(t, by, session.Act{Action: pick(t, "action", []string{"t.read", "t.write", "t.move", "t.move", "t.move", "t.exec"}), Args: []byte(pick(t, "args", []string{"1", "2"}))})
	}
}

// ballot has somebody grant or vote for something that is open.
func (g *gang) ballot(t *rapid.T, by policy.Caller) {
	ids := slices.Sorted(maps.Keys(g.live.Approvals))
	if len(ids) == 0 {
		return
	}
	ap := g.live.Approvals[pick(t, "approval", ids)]
	if by.Role == policy.AgentRole {
		g.step(t, by, session.Vote{Approval: ap.ID, Digest: ap.Digest.String()})
		return
	}
	g.step(t, by, session.Grant{Approval: ap.ID, Digest: ap.Digest.String()})
}

// Whatever a gang of agents does: toggling rings refills no bucket; nobody votes for itself through a child, a bond partner or a
// friend elevated for the vote; a child never exceeds its parent, also after the parent's demotion; no elevation is above its
// sponsor's right or longer than an hour; who is held stays held.
func TestAGangGainsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGang()
		for _, name := range members[:4] {
			g.setSigma(did(name), ring.MustSigma(pick(t, "sigma", []string{"0.55", "0.70", "0.97", "0.97"})))
			g.must(policy.Operator(did("ops")), session.Join{Agent: did(name)})
		}
		g.must(policy.Operator(did("ops")), session.Activate{})
		g.step(t, policy.Agent(did("ann")), session.Join{Agent: did("kid")})
		for range rapid.IntRange(10, 80).Draw(t, "schemes") {
			g.scheme(t)
		}
	})
}

// "Spawning nine children does not dilute blame": what an agent does through children is borne as if it had done it itself.
func TestChildrenDoNotDiluteBlame(t *testing.T) {
	alone, spread := blameOf(t, func(int) string { return "ann" }), blameOf(t, func(i int) string { return fmt.Sprint("k", i) })
	if alone != spread || !strings.HasPrefix(alone, "did:mesh:ann 0.7") || !strings.Contains(alone, "did:mesh:bob 0.2") {
		t.Errorf("herself: %s; through nine children: %s", alone, spread)
	}
}

// blameOf has bob write something, nine agents read it and write something else, and returns who bears the last of it.
func blameOf(t *testing.T, who func(i int) string) string {
	t.Helper()
	p := &player{world: newWorld()}
	script := []string{"action a.put partial resource=/a", "action a.get readonly resource=/a", "action b.put partial resource=/b",
		"active ann=0.97 bob=0.97 max_participants=20", "act bob a.put"}
	for i := range 9 {
		script = append(script, fmt.Sprintf("sigma k%d 0.97", i), fmt.Sprintf("spawn ann k%d", i))
	}
	for i := range 9 {
		script = append(script, "act "+who(i)+" a.get", "act "+who(i)+" b.put")
	}
	newest := ""
	for _, line := range script {
		p.now = p.now.Add(time.Second)
		if _, err := p.perform(line); err != nil {
			t.Fatal(err)
		}
		for id := range p.live.Running {
			newest = id
			if _, err := p.perform("settle " + id + " done"); err != nil {
				t.Fatal(err)
			}
		}
	}
	var shares []string
	for _, s := range p.found(newest).Blame.Shares {
		shares = append(shares, fmt.Sprint(s.Agent, " ", s.Share))
	}
	return strings.Join(shares, ", ")
}

// What agents' streams made of their entries only the hypervisor says: a slash could be told away otherwise.
func TestOnlyTheHypervisorSaysWhatItHasTold(t *testing.T) {
	w := newWorld()
	p := &player{world: w}
	for _, line := range []string{"active ann=0.70 bob=0.70", "slash ann"} {
		if _, err := p.perform(line); err != nil {
			t.Fatal(err)
		}
	}
	for _, by := range []policy.Caller{policy.Agent(did("ann")), policy.Operator(did("ops")), {DID: did("svc"), Role: policy.ServiceRole}} {
		out, err := w.do(by, session.Told{Answers: []session.Answer{{Number: w.live.Entries}}}, "")
		if err != nil || out.Code != policy.Forbidden || len(w.live.Owed) != 1 {
			t.Errorf("%s: %+v, %v", by.Role, out.Decision, err)
		}
	}
}

// SPEC §2: "for blame … a child is its parent": what a child's critical drift or breach costs is owed by its parent's ledger.
func TestWhatAChildDoesIsOwedByItsParent(t *testing.T) {
	for name, does := range map[string][]string{
		"drift":  {"drift kid 0.80"},
		"breach": {"act kid a1", "act kid a2", "act kid a3", "act kid a4", "act kid a5", "at +1s"},
	} {
		w := newWorld()
		p := &player{world: w}
		for _, line := range append([]string{"action a1 partial", "action a2 partial", "action a3 partial", "action a4 partial", "action a5 partial",
			"active par=0.70 bob=0.70", "spawn par kid"}, does...) {
			if _, err := p.perform(line); err != nil {
				t.Fatal(name, err)
			}
		}
		if len(w.live.Owed) == 0 {
			t.Errorf("%s: nothing is owed", name)
		}
		for _, owed := range w.live.Owed {
			if owed.Agent != did("par") {
				t.Errorf("%s: %s is owed by %s", name, owed.Entry.Kind, owed.Agent)
			}
		}
	}
}
