package session_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/drift"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
	"github.com/agenthypervisor/hypervisor/session"
)

// samples has every event, with every member set, and the odd ones of strings.
func samples() []session.Event {
	h, ann, odd := audit.Leaf([]byte("x")), did("ann"), "\"\\\n\u2028é\U0001F600"
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	cfg, err := session.Config{Name: "n", NoAudit: true, Consistency: session.Eventual, NetworkAllow: []string{odd}, FilesScope: []string{"/a"}}.Resolved()
	if err != nil {
		panic(err)
	}
	sigma, partial, yes, window := ring.Sigma(700_000), action.Partial, true, time.Hour
	denial := session.Denial{Agent: ann, Code: policy.PolicyDenied, Count: 3, Actions: []string{odd, "b"}, Ring: ring.Standard, Policy: odd, Approval: "apr-1"}
	return []session.Event{
		session.Created{ID: "s1", Config: cfg, Opener: ann, Secret: h, NodeEpoch: 1 << 62, Kind: session.KindUndo, Of: "s0"},
		session.Joined{Agent: ann, Sigma: 1},
		session.Joined{Agent: ann, Sigma: 1, Standing: 7, Probation: true},
		session.Joined{Agent: ann, Sigma: 1, Parent: "did:mesh:bob"},
		session.ManifestPresented{Agent: ann, Presented: session.Presented{Digest: h, Level: odd, Ring: ring.Standard}},
		session.ManifestPresented{Agent: ann, Presented: session.Presented{Digest: h, Level: "trusted", Ring: ring.Standard, Sigma: &sigma,
			Claims: map[string]action.Claim{odd: {Reversibility: &partial, Network: &yes}, "b": {UndoWindow: &window}, "*": {}}}},
		session.HistoryVerified{Agent: ann, History: session.History{Result: "few", Until: at}, Receipts: 1, Digest: h},
		session.HistoryVerified{Agent: ann, History: session.History{Result: "suspicious", Why: odd, Until: at}, Receipts: 64, Digest: h},
		session.Left{Agent: ann},
		session.Activated{},
		session.Terminated{Reason: odd, Grace: at},
		session.Cancelling{IDs: []string{"act-1", "act-2.2"}},
		session.SessionArchived{},
		session.CleanSession{Agents: []policy.DID{ann}},
		session.EntriesTold{Answers: []session.Answer{{Number: 1, Sigma: ring.One}, {Number: 2, Lost: 7}, {Number: 3, Code: policy.VouchRefused, Why: odd}}},
		session.VouchRequested{ID: "vch-1", Voucher: ann, Vouchee: ann, Bond: 1, Above: 2, Expires: at},
		session.VouchRequested{ID: "vch-1", Voucher: ann, Vouchee: ann},
		session.Vouched{ID: "vch-1", Voucher: ann, Vouchee: ann, Bond: 1},
		session.VouchRefused{ID: "vch-1", Code: policy.ExposureExceeded, Why: odd},
		session.VouchEnded{ID: "vch-1", Why: odd, Calls: []string{"act-1"}},
		session.VouchReleased{ID: "vch-1", Why: odd},
		session.SlashExecuted{ID: "sls-1", Agent: ann, Severity: 1, Cause: odd, Witness: ann, Unwitnessed: true},
		session.BondForfeited{ID: "vch-1", Slash: "sls-1", Voucher: ann, Level: 2},
		session.WitnessAsked{Act: h, By: ann, Expires: at},
		session.EpochOpened{Epoch: 2, NodeEpoch: 3},
		session.ConsistencyForced{},
		session.KeyUsed{Caller: ann, Key: odd, Digest: h},
		session.RingAssigned{Agent: ann, Ring: ring.Privileged, SigmaEff: ring.One},
		session.RingDemoted{Agent: ann, From: ring.Privileged, Ring: ring.Sandbox, SigmaEff: 999_999},
		session.RingDemoted{Agent: ann, From: ring.Privileged, Ring: ring.Sandbox, SigmaEff: 999_999, Held: true, Why: odd},
		session.DemotionLifted{Agent: ann},
		session.BehaviorDrift{ID: "drf-1", Agent: ann, Level: drift.Critical, Distance: 750_000, By: "did:mesh:cmvk"},
		session.BehaviorDrift{ID: "drf-1", Agent: ann, Level: drift.Low, Distance: 150_000, Metric: drift.Cosine, By: "did:mesh:cmvk", Reason: odd},
		session.IncidentRaised{ID: "inc-1", Action: "act-1", Agent: ann, Severity: 500_000, Reason: odd, By: "did:mesh:ops"},
		session.IncidentRaised{ID: "inc-1", Agent: ann, Severity: 500_000, Reason: odd, By: ann, Faultless: "agent_report"},
		session.FaultAttributed{ID: "inc-1", Severity: 500_000, Shares: []session.Borne{{Agent: ann, Share: 650_000, Why: []string{odd, "b"}}, {Agent: "did:mesh:bob", Share: 350_000, Why: []string{}}},
			Chains: 10_000, Drawn: true, Seed: 7, StandardError: 12},
		session.BreachDetected{Agent: ann, Level: session.HighBreach, Refused: 7, Actions: 10, Calls: 20, Breaker: at, Slashes: true},
		session.BreachDetected{Agent: ann, Level: session.LowBreach, Refused: 3, Actions: 10, Calls: 3},
		session.RingElevated{ID: "elv-1", Agent: ann, Ring: ring.Standard, Until: at, By: "did:mesh:bob", Approval: "apr-1"},
		session.ElevationExpired{ID: "elv-1", Agent: ann, Why: odd},
		session.ApprovalOpened{ID: "apr-1", Agent: ann, By: []string{"approver"}, Expires: at, Elevation: &session.AskedElevation{ID: "elv-1", Ring: 2, Seconds: 300}},
		session.Admitted{ID: "act-1", Agent: ann, Action: "a.b", Descriptor: h, Args: h, Ring: 1, RequiredRing: 2, SigmaEff: 970_000, Standing: 12, RiskWeight: 650_000,
			Reversibility: action.Partial, ReadOnly: true, Rules: odd, Approval: "apr-1", Unwitnessed: true, Resource: odd, UndoUntil: at,
			Image: h, ImageMAC: h, Absent: true, Undoes: "s0/act-1", UndoesOf: ann, Saga: &session.SagaTry{Saga: "sag-1", Step: 1, No: 2, Undo: true}},
		session.Started{ID: "act-1", Incarnation: odd},
		session.Denied{Denial: denial},
		session.RateLimited{Denial: denial},
		session.Completed{ID: "act-1", Output: h, Undo: h, After: h, AfterAbsent: true, Left: h},
		session.Undone{ID: "s0/act-1", Agent: ann, By: "act-2", Observed: true},
		session.Resolved{ID: "s0/act-1", Outcome: "done", Undo: h, After: h, AfterAbsent: true, Left: h},
		session.Completed{ID: "act-1"},
		session.Failed{ID: "act-1", Why: odd, Output: h},
		session.Unknown{ID: "act-1", Why: "timeout"},
		session.ApprovalOpened{ID: "apr-1", Agent: ann, Action: "a.b", Digest: h, Descriptor: h, Rules: "v", Rule: odd, Args: h, By: []string{"consensus"},
			Electors: []policy.DID{ann}, Expires: at, Ring: 1},
		session.ApprovalOpened{ID: "apr-1", Agent: ann, By: []string{}, Expires: at},
		session.ApprovalVoted{ID: "apr-1", Voter: ann, Against: true},
		session.ApprovalGranted{ID: "apr-1", By: "consensus", Expires: at},
		session.ApprovalDenied{ID: "apr-1", By: string(ann)},
		session.ApprovalExpired{ID: "apr-1", Why: odd},
		session.SagaCreated{ID: "sag-1", Saga: odd, By: ann, Agent: true, Args: h, FanOut: []saga.Group{{Policy: saga.Any, Branches: []string{"a", "b"}}}, Steps: []session.SagaStep{
			{ID: "a", Agent: ann, Action: "a.b", Undo: "a.c", Needs: []string{"b"}, Timeout: time.Second, Retries: 1, Checkpoint: odd, ReadOnly: true, Idempotent: true, Undoable: true, UndoIdempotent: true, Requires: ring.Privileged, Substitutes: []policy.DID{ann, "did:mesh:bob"}},
			{ID: "b", Agent: ann, Action: "a.b", Timeout: time.Second}}},
		session.SagaCreated{ID: "sag-1", Saga: "s", By: ann, Args: h, Steps: []session.SagaStep{{ID: "b", Agent: ann, Action: "a.b", Timeout: time.Second}}},
		session.SagaStepStarted{Saga: "sag-1", Step: "a", No: 2, Undo: true},
		session.SagaStepRetried{Saga: "sag-1", Step: "a", After: at, Counted: true, Maybe: true, Why: odd},
		session.SagaStepHeld{Saga: "sag-1", Step: "a", For: odd, Until: at},
		session.SagaStepSettled{To: saga.Committed, Saga: "sag-1", Step: "a", Action: "act-1"},
		session.SagaStepSettled{To: saga.Failed, Saga: "sag-1", Step: "a", Why: odd},
		session.SagaStepSettled{To: saga.Unknown, Saga: "sag-1", Step: "a", Why: odd, Until: at},
		session.SagaStepSettled{To: saga.Compensated, Saga: "sag-1", Step: "a"},
		session.SagaStepSettled{To: saga.CompensationFailed, Saga: "sag-1", Step: "a", Why: odd},
		session.SagaStepSettled{To: saga.CompensationUnknown, Saga: "sag-1", Step: "a", Why: odd, Until: at},
		session.SagaStepGivenUp{Saga: "sag-1", Step: "a"},
		session.SagaCheckpointSaved{Saga: "sag-1", Step: "a", Goal: odd},
		session.SagaFanoutStarted{Saga: "sag-1", Group: 1},
		session.SagaFanoutResolved{Saga: "sag-1", Group: 1, Satisfied: true},
		session.SagaCompensating{Saga: "sag-1", Step: "a", Why: odd},
		session.SagaWaiting{Saga: "sag-1"},
		session.SagaHandedOff{Saga: "sag-1", Step: odd, From: ann, To: "did:mesh:bob", Why: "killed"},
		session.SagaInvalidated{Saga: "sag-1", Steps: []string{"a", odd}},
		session.SagaCreated{ID: "sag-2", Saga: "s", By: ann, Fault: true, Args: h, Replays: "sag-1", Skips: []string{"b"}, Steps: []session.SagaStep{{ID: "b", Agent: ann, Action: "a.b", Timeout: time.Second}}},
		session.SagaEnded{To: saga.Completed, Saga: "sag-1"},
		session.SagaEnded{To: saga.AllUndone, Saga: "sag-1"},
		session.SagaEnded{To: saga.Escalated, Saga: "sag-1", Left: []string{"a", odd}},
		session.SagaEnded{To: saga.AllUndone, Saga: "sag-1", Failed: "act-7"},
		session.SagaEnded{To: saga.AllUndone, Saga: "sag-1", Faultless: "cancelled"},
		session.AgentKilled{ID: "kil-1", Agent: ann, Scope: "session", Reason: policy.ForDrift, Note: odd, By: ann, At: at},
		session.AgentKilled{ID: "kil-1", Agent: ann, Scope: "session", Reason: policy.ForDrift, By: ann, At: at, Substitute: "did:mesh:bob"},
		session.SessionKilled{ID: "kil-1", Scope: "session", Reason: policy.Manual, Note: odd, By: ann, At: at},
		session.KillLifted{ID: "kil-1", Agent: ann},
	}
}

func TestEveryEventIsReadAsItWasWritten(t *testing.T) {
	var seen []string
	for _, e := range samples() {
		seen = append(seen, strings.Fields(show(e))[0])
		events := []session.Event{e, e}
		back, err := session.ParseEvents(session.AppendEvents(nil, events))
		if err != nil {
			t.Errorf("%T: %v", e, err)
		} else if diff := cmp.Diff(events, back, plansAside); diff != "" {
			t.Errorf("%T (-written +read):\n%s", e, diff)
		}
		if err := sameJSON(e); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(seen)
	if diff := cmp.Diff(session.EventTypes(), slices.Compact(seen)); diff != "" {
		t.Errorf("events without a sample:\n%s", diff)
	}
}

// docs/design.md "Record and log": "Unknown version or type on read stops; it is never skipped."
func TestWhatIsNotKnownStopsTheReader(t *testing.T) {
	for _, text := range []string{
		``, `null x`, `{}`, `[1]`, `[{}]`, `[{"type":"session.nonsense"}]`, `[{"type":"session.activated","more":1}]`,
		`[{"agent":"did:mesh:ann","type":"session.left"}]`, `[{"type":"session.left","agent":"ann"}]`, `[{"type":"session.left"`,
		`[{"type":"session.joined","agent":"did:mesh:ann","sigma":1.5}]`, `[{"type":"session.joined","agent":"did:mesh:ann","sigma":1e-1}]`,
		`[{"type":"ring.assigned","agent":"did:mesh:ann","ring":256,"sigma_eff":1}]`,
	} {
		if events, err := session.ParseEvents([]byte(text)); err == nil {
			t.Errorf("%s was read as %v", text, events)
		}
	}
}

func FuzzParseEvents(f *testing.F) {
	for _, e := range samples() {
		f.Add(session.AppendEvents(nil, []session.Event{e}))
	}
	f.Add(session.AppendEvents(nil, samples()))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := session.ParseEvents(b)
		if err != nil {
			return
		}
		// What was read may have been written otherwise than we write; what we write is read as itself.
		once := session.AppendEvents(nil, events)
		again, err := session.ParseEvents(once)
		if err != nil {
			if bytes.Contains(once, []byte(`"10000-`)) {
				return // a zone took it past the last year that RFC 3339 can say
			}
			t.Fatalf("%s\nwas written as\n%s\n%v", b, once, err)
		}
		if twice := session.AppendEvents(nil, again); !bytes.Equal(once, twice) {
			t.Fatalf("%s\nbecame\n%s", once, twice)
		}
	})
}

// What a caller can say must be readable when it is recorded, or it is refused before.
func TestWhatCannotBeReadBackIsNotRecorded(t *testing.T) {
	w := newWorld()
	for name, do := range map[string]func() (session.Outcome, error){
		"a caller that is no DID": func() (session.Outcome, error) {
			return w.do(policy.Operator("admin"), session.Create{}, "")
		},
		"a key that is not text": func() (session.Outcome, error) {
			return w.do(policy.Operator(did("ops")), session.Create{}, "\xff")
		},
		"a key too long": func() (session.Outcome, error) {
			return w.do(policy.Operator(did("ops")), session.Create{}, strings.Repeat("k", session.MaxKeyBytes+1))
		},
	} {
		if out, err := do(); err == nil && out.Code != policy.InvalidArguments {
			t.Errorf("%s: %+v, %v", name, out.Decision, err)
		}
	}
	play(t, w, "active ann=0.97")
	for _, reason := range []string{"\xff", strings.Repeat("r", 257)} {
		if out, err := w.do(policy.Operator(did("ops")), session.Terminate{Reason: reason}, ""); err != nil || out.Code != policy.InvalidArguments {
			t.Errorf("reason %q: %+v, %v", reason, out.Decision, err)
		}
	}
	for _, name := range []string{"\xff\xfe", strings.Repeat("é", 500), "a\u2028b", ""} {
		if _, err := w.do(policy.Agent(did("ann")), session.Act{Action: name}, ""); err != nil {
			t.Errorf("action %q: %v", name, err)
		}
		w.now = w.now.Add(time.Second)
	}
}

var codeConstant = regexp.MustCompile(`(?m)^\t[A-Z]\w+\s+Code = "(\w+)"`)

// Every code that a decision can carry stands in a scenario, but for those that the rim gives.
func TestEveryCodeOccursInAScenario(t *testing.T) {
	source, err := os.ReadFile("../policy/decision.go")
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob("testdata/*.txt")
	var traces []byte
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		traces = append(traces, b...)
	}
	byTheRim := []string{"ok", "overloaded", "store_unavailable"}
	for _, m := range codeConstant.FindAllSubmatch(source, -1) {
		if code := string(m[1]); !slices.Contains(byTheRim, code) && !bytes.Contains(traces, []byte("refused "+code+":")) {
			t.Errorf("no scenario shows %s", code)
		}
	}
	for _, kind := range session.EventTypes() {
		if !bytes.Contains(traces, []byte("  "+kind+" ")) && !bytes.Contains(traces, []byte("  "+kind+"\n")) && !bytes.Contains(traces, []byte(" × "+kind+"\n")) {
			t.Errorf("no scenario shows %s", kind)
		}
	}
}
