package hypervisor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

func draftEmail(_ context.Context, args json.RawMessage) (json.RawMessage, error) {
	return json.RawMessage(`{"draft":` + string(args) + `}`), nil
}

func sendEmail(context.Context, json.RawMessage) (json.RawMessage, error) {
	return nil, fmt.Errorf("never reached here: it cannot be taken back, so it needs an approval")
}

// An agent drafts an email, and is told what it would take to send it.
func Example() {
	ctx := context.Background()
	hv, err := hypervisor.Open(ctx, nil) // nil: in memory; &hypervisor.Options{Dir: "data"}: the embedded store
	if err != nil {
		log.Fatal(err)
	}
	admin := policy.Operator("did:mesh:admin")
	s, err := hv.CreateSession(ctx, admin, &session.Config{MaxParticipants: 5})
	if err != nil {
		log.Fatal(err)
	}
	p, err := s.Join(ctx, admin, session.Join{Agent: "did:mesh:agent-alpha", Sigma: ring.MustSigma("0.85")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ring", p.Ring, p.Ring == ring.Standard)
	if err := s.Activate(ctx, admin); err != nil {
		log.Fatal(err)
	}
	s.Register(action.Descriptor{ID: "draft_email", Reversibility: action.Partial}, draftEmail)
	s.Register(action.Descriptor{ID: "send_email"}, sendEmail)

	alpha := policy.Agent("did:mesh:agent-alpha")
	args := json.RawMessage(`{"to":"ann@example.com"}`)
	for _, name := range []string{"draft_email", "send_email"} {
		out, err := s.Act(ctx, alpha, session.Act{Action: name, Args: args})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(name, out.Code, len(out.Result))
	}
	sum, err := s.Terminate(ctx, admin)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("records", sum.Records)
	if err := hv.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// ring 2 true
	// draft_email ok 34
	// send_email approval_required 0
	// records 8
}
