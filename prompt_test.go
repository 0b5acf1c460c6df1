package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// prompt_test.go: a call that whoever waits for it does (Tool.Prompt) is stopped, recorded and answered as any other.

func prompt(t *testing.T, s *hypervisor.Session, d action.Descriptor, do action.Func) {
	t.Helper()
	if err := s.SetTools(ann, d.ID, []hypervisor.Tool{{Descriptor: d, Do: do, Prompt: true}}); err != nil {
		t.Fatal(err)
	}
}

func TestACallOfAPromptToolIsDoneByWhoWaitsForIt(t *testing.T) {
	for _, consistency := range []session.Consistency{session.Strong, session.Eventual} {
		for _, readOnly := range []bool{true, false} {
			store := newKept()
			hv := open(t, &hypervisor.Options{Store: store})
			s := hypervisortest.Session(t, hv, &session.Config{Consistency: consistency}, map[policy.DID]string{ann: "0.80"})
			did := make(chan bool, 2)
			prompt(t, s, action.Descriptor{ID: "do", ReadOnly: readOnly, Reversibility: action.Partial}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
				did <- strings.Contains(string(debug.Stack()), "(*Session).Act(")
				return json.RawMessage(`"done"`), nil
			})
			out, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "do"})
			if err != nil || out.State != "done" || string(out.Result) != `"done"` || !<-did {
				t.Errorf("%v, read-only %v: %+v, %v", consistency, readOnly, out, err)
			}
			if out, err = s.Begin(context.Background(), policy.Agent(ann), session.Act{Action: "do"}); err != nil || out.State != "running" || <-did {
				t.Errorf("%v, read-only %v: %+v, %v; nobody waits for it", consistency, readOnly, out, err)
			}
			closeAll(t, hv)
			verify(t, store)
		}
	}
}

func TestAKillStopsACallThatItsCallerDoes(t *testing.T) {
	for name := range afterKill {
		t.Run(name, func(t *testing.T) {
			hv := open(t, nil)
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			going := make(chan struct{})
			prompt(t, s, action.Descriptor{ID: "wait", Reversibility: action.Partial}, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
				close(going)
				<-ctx.Done()
				return nil, ctx.Err()
			})
			var out hypervisor.Outcome
			var err error
			var calling sync.WaitGroup
			calling.Go(func() { out, err = s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "wait"}) })
			<-going
			report := kill(t, hv, scopes(s)[name])
			calling.Wait()
			if err != nil || out.State != "unknown" {
				t.Errorf("%+v, %v", out, err)
			}
			if want := []hypervisor.KilledCall{{Session: s.ID(), ID: out.ID, Action: "wait", Outcome: "unknown"}}; !slices.Equal(report.Cancelled, want) || len(report.StillRunning) > 0 {
				t.Errorf("%+v", report)
			}
			if v, err := s.Action(context.Background(), out.ID); err != nil || v.Why != "killed" {
				t.Errorf("%+v, %v", v, err)
			}
			closeAll(t, hv)
		})
	}
}

func TestACallThatItsCallerWouldDoIsNotDoneAfterAKillOrALostAdmission(t *testing.T) {
	for name, meanwhile := range map[string]func(*hypervisor.Hypervisor, []eventlog.Append) []error{
		"kill": func(hv *hypervisor.Hypervisor, _ []eventlog.Append) []error {
			changed := hv.KillsChanged()
			go func() { // ends before hv does, whose Close waits for it
				_, _ = hv.Kill(context.Background(), admin, policy.Kill{Scope: policy.Scope{Agent: ann}, Reason: policy.Manual})
			}()
			<-changed
			return nil
		},
		"lost": func(_ *hypervisor.Hypervisor, recs []eventlog.Append) []error {
			return slices.Repeat([]error{errors.New("the disk is gone")}, len(recs))
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := newKept()
			hv := open(t, &hypervisor.Options{Store: store})
			s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
			var tool echo
			prompt(t, s, action.Descriptor{ID: "write", Reversibility: action.Partial}, tool.do)
			store.break_(func(recs []eventlog.Append) []error {
				if strings.Contains(string(recs[0].Body), "action.admitted") {
					store.break_(nil)
					if errs := meanwhile(hv, recs); errs != nil {
						return errs
					}
				}
				return store.Store.Append(context.Background(), recs)
			})
			out, err := s.Act(context.Background(), policy.Agent(ann), session.Act{Action: "write"})
			if stopped := err == nil && out.State == "failed" && errors.Is(out.Err, action.ErrNotDispatched); !stopped && !errors.Is(err, hypervisor.ErrStoreUnavailable) || tool.count() != 0 {
				t.Errorf("%+v, %v; %d done", out, err, tool.count())
			}
			closeAll(t, hv)
			verify(t, store)
		})
	}
}

func TestTheEndOfItsCallerEndsACallThatItDoes(t *testing.T) {
	hv := open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	ctx, stop := context.WithCancel(context.Background())
	prompt(t, s, action.Descriptor{ID: "wait", Reversibility: action.Partial}, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
		stop()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	out, err := s.Act(ctx, policy.Agent(ann), session.Act{Action: "wait"})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", out, err)
	}
	if v, err := s.Action(context.Background(), out.ID); err != nil || v.Outcome != "unknown" || v.Why != "cancelled" {
		t.Errorf("%+v, %v", v, err)
	}
	closeAll(t, hv)
}
