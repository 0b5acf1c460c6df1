//go:build unix

package weather

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

const (
	libraryAgents   = 8
	librarySessions = 2
	libraryCallers  = 4 // calls an agent has in flight in a session
	// mostCalls bounds a load where calls are so slow that no bucket gets empty.
	mostCalls = 1000
)

const (
	dirVar  = "WEATHER_DIR"
	baseVar = "WEATHER_BASE"
)

var admin = policy.Operator("did:mesh:admin")

func agentDID(i int) policy.DID { return policy.DID(fmt.Sprintf("did:mesh:agent-%d", i)) }

func libraryCommand(t testing.TB, k *keeper, dir string, base int) *exec.Cmd {
	t.Helper()
	return self(t, "library", socketVar+"="+k.socket, dirVar+"="+dir, baseVar+"="+strconv.Itoa(base))
}

// libraryJob is a program that embeds the hypervisor: it ends what an earlier process left, and lets agents call until their
// buckets are empty, or they have called often enough. It says each acknowledged call with one write.
func libraryJob(ctx context.Context) error {
	base, err := strconv.Atoi(os.Getenv(baseVar))
	if err != nil {
		return err
	}
	keeper, err := dialKeeper(os.Getenv(socketVar))
	if err != nil {
		return err
	}
	hv, err := hypervisor.Open(ctx, &hypervisor.Options{Dir: os.Getenv(dirVar)})
	if err != nil {
		return err
	}
	if err := endLeft(ctx, hv); err != nil {
		return err
	}
	var sessions []*hypervisor.Session
	for range librarySessions {
		s, err := openSession(ctx, hv, keeper)
		if err != nil {
			return err
		}
		sessions = append(sessions, s)
	}
	var numbers atomic.Int64
	var all sync.WaitGroup
	for _, s := range sessions {
		for i := range libraryAgents * libraryCallers {
			all.Go(func() {
				for numbers.Load() < mostCalls {
					n := base + int(numbers.Add(1))
					out, err := actOn(ctx, s, policy.Agent(agentDID(i%libraryAgents)), callArgs(n))
					if err != nil || !out.Allowed {
						return
					}
					if out.State == "done" {
						fmt.Printf("acked %d\n", n)
					}
				}
			})
		}
	}
	all.Wait()
	fmt.Println("over")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return errors.Join(endLeft(ctx, hv), hv.Close(ctx))
}

func endLeft(ctx context.Context, hv *hypervisor.Hypervisor) error {
	for _, id := range hv.OpenSessions() {
		s, err := hv.Session(ctx, id)
		if err != nil {
			return err
		}
		if _, err := s.Terminate(ctx, admin); err != nil {
			return err
		}
	}
	return nil
}

// openSession opens a session whose agents can append to the keeper's file.
func openSession(ctx context.Context, hv *hypervisor.Hypervisor, keeper *line) (*hypervisor.Session, error) {
	s, err := hv.CreateSession(ctx, admin, nil)
	if err != nil {
		return nil, err
	}
	for i := range libraryAgents {
		if _, err := s.Join(ctx, admin, session.Join{Agent: agentDID(i), Sigma: ring.MustSigma("0.97")}); err != nil {
			return nil, err
		}
	}
	s.Register(action.Descriptor{ID: "append", Reversibility: action.Partial}, func(ctx context.Context, in json.RawMessage) (json.RawMessage, error) {
		e := errand{}
		if err := json.Unmarshal(in, &e); err != nil {
			return nil, err
		}
		e.Op = "append"
		if _, err := keeper.ask(ctx, e); err != nil {
			return nil, fmt.Errorf("%w: %w", action.ErrUnknownOutcome, err)
		}
		return json.Marshal(map[string]any{"did": e.N, "fill": make([]byte, e.Size)})
	})
	return s, s.Activate(ctx, admin)
}

func actOn(ctx context.Context, s *hypervisor.Session, who policy.Caller, a args) (hypervisor.Outcome, error) {
	b, err := json.Marshal(a)
	if err != nil {
		return hypervisor.Outcome{}, err
	}
	return s.Act(ctx, who, session.Act{Action: "append", Args: b})
}
