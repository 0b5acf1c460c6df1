//go:build unix

package weather

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	agents "github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/internal/reputation"
	"github.com/agenthypervisor/hypervisor/internal/service"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

// bonds_test.go: SIGKILL between any two records of a vouch or a slash, on a real store: standings are consistent afterwards, and the
// reputation service is told everything once.

const bondsVar = "WEATHER_BONDS"

// A bondsPlan is what a process is to do, and where in it to die.
type bondsPlan struct {
	Dir     string
	Service string // the reputation service's address
	Round   int    // its agents are others than any other round's
	At      int64  // at this append SIGKILL comes; 0: not at all
	How     int    // before it, behind it, or After it has begun
	After   time.Duration
}

const (
	killBefore = iota
	killBehind
	killDuring
)

// A mortalStore kills its process at an append.
type mortalStore struct {
	*sqlitelog.Store
	plan    bondsPlan
	appends atomic.Int64
}

func (m *mortalStore) Append(ctx context.Context, recs []eventlog.Append) []error {
	here := m.appends.Add(1) == m.plan.At
	switch {
	case here && m.plan.How == killBefore:
		die()
	case here && m.plan.How == killDuring:
		time.AfterFunc(m.plan.After, die)
	}
	errs := m.Store.Append(ctx, recs)
	if here && m.plan.How == killBehind {
		die()
	}
	return errs
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // it comes
}

// cast are the agents of a round: bob is slashed, ann stands behind bob and falls so far that cem, who stands behind ann, is clipped too.
func cast(round int) (ann, bob, cem policy.DID) {
	name := func(who string) policy.DID { return policy.DID(fmt.Sprintf("did:mesh:%s-%d", who, round)) }
	return name("ann"), name("bob"), name("cem")
}

// bondsJob lives through vouches, a withdrawal, a slash and the end of two sessions.
func bondsJob(ctx context.Context) error {
	var plan bondsPlan
	if err := json.Unmarshal([]byte(os.Getenv(bondsVar)), &plan); err != nil {
		return err
	}
	store, err := sqlitelog.Open(ctx, plan.Dir, nil)
	if err != nil {
		return err
	}
	mortal := &mortalStore{Store: store, plan: plan}
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Store: mortal, Dir: plan.Dir})
	if err != nil {
		return err
	}
	if err := reportTo(hv, plan.Service); err != nil {
		return err
	}
	if err := bondsStory(ctx, hv, plan.Round); err != nil {
		return err
	}
	fmt.Println(mortal.appends.Load())
	return hv.Close(ctx)
}

func reportTo(hv *hypervisor.Hypervisor, url string) error {
	service, err := reputation.New(service.Options{URL: url, Timeout: patience})
	if err != nil {
		return err
	}
	hv.SetReporter(service)
	return nil
}

func bondsStory(ctx context.Context, hv *hypervisor.Hypervisor, round int) error {
	ann, bob, cem := cast(round)
	var all []*hypervisor.Session
	for range 2 {
		s, err := hv.CreateSession(ctx, admin, nil)
		if err != nil {
			return err
		}
		all = append(all, s)
		for did, sigma := range map[policy.DID]string{ann: "0.65", bob: "0.50", cem: "0.90"} {
			if _, err := s.Join(ctx, admin, session.Join{Agent: did, Sigma: ring.MustSigma(sigma)}); err != nil {
				return err
			}
		}
		if err := s.Activate(ctx, admin); err != nil {
			return err
		}
		s.Register(action.Descriptor{ID: "write", Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
	}
	here, there := all[0], all[1]
	var old hypervisor.Bond
	for _, v := range []struct {
		s       *hypervisor.Session
		by, who policy.DID
		bond    string
	}{{here, ann, bob, "0.20"}, {here, cem, ann, "0.20"}, {there, ann, bob, "0.20"}, {there, cem, bob, "0.10"}} {
		b, err := v.s.Vouch(ctx, policy.Agent(v.by), session.Vouch{Vouchee: v.who, Bond: ring.MustSigma(v.bond)})
		if err != nil {
			return err
		}
		if v.s == there && v.by == ann {
			old = b
		}
	}
	if out, err := here.Act(ctx, policy.Agent(bob), session.Act{Action: "write", Args: json.RawMessage(`{}`)}); err != nil || !out.Allowed {
		return fmt.Errorf("%+v, %w", out.Decision, err)
	}
	if d, err := there.Withdraw(ctx, policy.Agent(ann), session.Withdraw{ID: old.ID}); err != nil || !d.Allowed {
		return fmt.Errorf("%+v, %w", d, err)
	}
	if d, err := here.Slash(ctx, admin, session.Slash{Agent: bob}); err != nil || !d.Allowed {
		return fmt.Errorf("%+v, %w", d, err)
	}
	return endLeft(ctx, hv)
}

// A hearer is a reputation service that only listens. It loses some of its answers, so that it is told again.
type hearer struct {
	t     *testing.T
	mu    sync.Mutex
	heard map[string]string // the report's bytes, by id
	told  int
}

func (h *hearer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body json.RawMessage
	var said struct{ ID, Agent, Kind string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || json.Unmarshal(body, &said) != nil {
		return // its process died while it spoke
	}
	h.mu.Lock()
	h.told++
	before, again := h.heard[said.ID]
	h.heard[said.ID] = string(body)
	h.mu.Unlock()
	if again && before != string(body) {
		h.t.Errorf("told twice as two things:\n%s\n%s", before, body)
	}
	if !again && len(said.ID) > 0 && said.ID[0] == '0' {
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"id": said.ID})
}

// TestKilledAtAnyRecordOfAVouchOrASlashStandingsAreConsistent is issue 5's: a hundred random points.
func TestKilledAtAnyRecordOfAVouchOrASlashStandingsAreConsistent(t *testing.T) {
	points := 100
	if *long {
		points = 1000
	}
	random, dir := newRand(t), shortDir(t)
	service := &hearer{t: t, heard: map[string]string{}}
	server := httptest.NewServer(service)
	defer server.Close()
	most := int64(0)
	died := 0
	for round := range points + 1 {
		plan := bondsPlan{Dir: dir, Service: server.URL, Round: round}
		if round > 0 { // the first lives, and says how many appends there are
			plan.At, plan.How, plan.After = 1+random.Int64N(most), random.IntN(3), drawDelay(random)
		}
		b, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		out, err := self(t, "bonds", bondsVar+"="+string(b)).Output()
		var exit *exec.ExitError
		switch {
		case err == nil && round == 0:
			if most, err = strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64); err != nil {
				t.Fatal(err)
			}
		case errors.As(err, &exit) && exit.ExitCode() == -1:
			died++
		case err != nil:
			t.Fatalf("round %d: %v: %s", round, err, exit.Stderr)
		}
		bondsRest(t, dir, server.URL, round)
		if t.Failed() {
			t.Fatalf("round %d of %d appends: %+v", round, most, plan)
		}
	}
	bondsTold(t, dir, service, points)
	t.Logf("%d deaths at %d appends; %d reports, told %d times", died, most, len(service.heard), service.told)
	if died < points/2 {
		t.Errorf("only %d deaths of %d", died, points)
	}
}

func drawDelay(r *rand.Rand) time.Duration {
	const most = 2 * time.Millisecond // an append and its sync take about that
	return time.Duration(r.Int64N(int64(most)))
}

// bondsRest begins another process' life in good weather, and holds what it says of a round's agents.
func bondsRest(t *testing.T, dir, url string, round int) {
	t.Helper()
	ctx := t.Context()
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := hv.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	if err := reportTo(hv, url); err != nil {
		t.Fatal(err)
	}
	open := hv.OpenSessions()
	ann, bob, cem := cast(round)
	agrees := func(what string, open []string) {
		var faults []string
		defer func() {
			if len(faults) > 0 {
				t.Log(strings.Join(faults, "\n"))
			}
		}()
		eventually(t, what, func() bool {
			faults = bondsFaults(t, hv, open, ann, bob, cem)
			return len(faults) == 0
		})
	}
	agrees("what is set aside is what stands behind the bonds", open)
	if err := endLeft(ctx, hv); err != nil {
		t.Fatal(err)
	}
	agrees("nothing stays locked", nil)
	slashes, clips := 0, 0
	for _, did := range []policy.DID{ann, bob, cem} {
		last := ring.Newcomer
		for e, err := range hv.Ledger(ctx, did, 1) {
			if err != nil {
				t.Fatal(err)
			}
			last = e.Sigma
			if e.Kind != "" {
				last = e.Moved.Sigma
			}
			switch e.Kind {
			case agents.Slashing:
				slashes++
			case agents.Clip:
				clips++
			}
		}
		if v, err := hv.Agent(ctx, did); err == nil && v.Sigma != last {
			t.Errorf("%s has σ %s, and its ledger ends at %s", did, v.Sigma, last)
		}
	}
	if slashes > 1 || clips != 2*slashes { // ann falls to 0.45, so cem is clipped too
		t.Errorf("%d slashes and %d clips", slashes, clips)
	}
}

// bondsFaults holds what is set aside against the bonds of the sessions that are open.
func bondsFaults(t *testing.T, hv *hypervisor.Hypervisor, open []string, dids ...policy.DID) (faults []string) {
	t.Helper()
	there := map[string]bool{}
	for _, id := range open {
		s, err := hv.Session(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		state, err := s.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(state.Owed) > 0 || len(state.Slashes) > 0 {
			faults = append(faults, fmt.Sprintf("%s, which is %s, owes %d entries and has %d slashes that are not over", id, state.Lifecycle, len(state.Owed), len(state.Slashes)))
		}
		for _, b := range state.Bonds {
			there[agents.BondKey(id, b.ID)] = true
		}
	}
	for _, did := range dids {
		v, err := hv.Agent(t.Context(), did)
		if errors.Is(err, hypervisor.ErrNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := ring.Sigma(0)
		for _, b := range v.Bonds {
			sum += b.Amount
			if key := agents.BondKey(b.Session, b.ID); !there[key] {
				faults = append(faults, fmt.Sprintf("%s has %s locked for %s, which is no more", did, b.Amount, key))
			} else {
				delete(there, key)
			}
		}
		if sum > agents.MostBonded(v.Sigma) {
			faults = append(faults, fmt.Sprintf("%s has bonded %s with σ %s", did, sum, v.Sigma))
		}
	}
	for key := range there {
		faults = append(faults, key+" has no collateral")
	}
	return faults
}

// bondsTold waits until the service has heard all, and holds it against the ledgers.
func bondsTold(t *testing.T, dir string, service *hearer, rounds int) {
	t.Helper()
	hv, err := hypervisor.Open(t.Context(), &hypervisor.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(service)
	defer server.Close()
	if err := reportTo(hv, server.URL); err != nil {
		t.Fatal(err)
	}
	want := 0
	for round := range rounds + 1 {
		ann, bob, cem := cast(round)
		for _, did := range []policy.DID{ann, bob, cem} {
			for e, err := range hv.Ledger(t.Context(), did, 1) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Kind.Notable() {
					want++
				}
			}
		}
	}
	eventually(t, fmt.Sprintf("the service has heard %d reports", want), func() bool {
		service.mu.Lock()
		defer service.mu.Unlock()
		return len(service.heard) >= want
	})
	if err := hv.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if len(service.heard) != want {
		t.Errorf("%d entries were told as %d", want, len(service.heard))
	}
	readHistory(t, dir)
}
