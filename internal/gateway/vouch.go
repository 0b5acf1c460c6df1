package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// vouch.go: an agent puts up some of its own σ for another in its session.

// vouchTool is the hypervisor's own tool.
const vouchTool = ownPrefix + "vouch"

var vouchDefinition = json.RawMessage(`{"name":"` + vouchTool + `","title":"Vouch",` +
	`"description":"Put up some of your own standing for another agent of this session, which lifts it here. ` +
	`You lose what you put up if that agent is slashed for what it does while you stand behind it. It ends with the session, or when it expires.",` +
	`"inputSchema":{"type":"object","properties":{"agent":{"type":"string","description":"the other agent's DID"},` +
	`"bond":{"type":"string","description":"how much, such as 0.10; leave out for a fifth of your standing"},` +
	`"expires":{"type":"string","description":"after how long it ends, such as 10m"}},"required":["agent"],"additionalProperties":false},` +
	`"annotations":{"readOnlyHint":false,"destructiveHint":false,"openWorldHint":false}}`)

// A Voucher is what a Server needs of who may stand behind another. Implementations are safe for concurrent use.
type Voucher interface {
	// Vouch returns once the bond counts. The error is *hypervisor.Refused where the rules say no.
	Vouch(ctx context.Context, c session.Vouch) (hypervisor.Bond, error)
}

// A VouchAnswer is what the tool answers a program.
type VouchAnswer struct {
	ID    string     `json:"id"`
	Agent policy.DID `json:"agent"`
	Bond  ring.Sigma `json:"bond"`
}

// vouch does a call of the vouch tool.
func (s *Server) vouch(ctx context.Context, args json.RawMessage, modern bool) (mcp.Result, error) {
	c, life, err := vouchRequest(args)
	if err != nil {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: err.Error()}
	}
	if life > 0 {
		c.Expires = s.clock.Now().UTC().Add(life).Truncate(time.Microsecond)
	}
	b, err := s.session.Vouch(ctx, c)
	var refused *hypervisor.Refused
	switch {
	case errors.As(err, &refused):
		return refusal(refused.Decision, modern)
	case errors.Is(err, hypervisor.ErrStoreUnavailable):
		return refusal(policy.Refuse(policy.StoreUnavailable, "the hypervisor cannot record at present, and whether the vouch comes to be is not known yet"), modern)
	case err != nil:
		return nil, fmt.Errorf("vouching: %w", err)
	}
	structured, err := encode(VouchAnswer{b.ID, b.Vouchee, b.Amount})
	if err != nil {
		return nil, fmt.Errorf("encoding a vouch: %w", err)
	}
	return said(fmt.Sprintf("you stand behind %s with %s of your standing: %s", b.Vouchee, b.Amount, b.ID), structured, false, modern)
}

func vouchRequest(args json.RawMessage) (c session.Vouch, life time.Duration, err error) {
	var in struct {
		Agent   string `json:"agent"`
		Bond    string `json:"bond"`
		Expires string `json:"expires"`
	}
	if err := jsonv2.Unmarshal(args, &in, jsonv2.RejectUnknownMembers(true)); err != nil {
		return c, 0, fmt.Errorf("the arguments of %s do not fit: %s", vouchTool, document.DecodeFault(err))
	}
	if c.Vouchee, err = policy.ParseDID(in.Agent); err != nil {
		return c, 0, fmt.Errorf("agent: %w", err)
	}
	if in.Bond != "" {
		if c.Bond, err = ring.ParseSigma(in.Bond); err != nil || c.Bond == 0 {
			return c, 0, fmt.Errorf("bond: want a figure above 0, up to 1, got %q; leave it out for a fifth of your standing", clip(in.Bond))
		}
	}
	if in.Expires != "" {
		if life, err = document.ParseDuration(in.Expires); err != nil || life <= 0 {
			return c, 0, fmt.Errorf("expires: want a time such as 10m, got %q", clip(in.Expires))
		}
	}
	return c, life, nil
}

// Vouch puts up some of the agent's σ for another in its session.
func (f *Front) Vouch(ctx context.Context, c session.Vouch) (hypervisor.Bond, error) {
	return f.session.Vouch(ctx, f.agent, c)
}

// Vouch puts up some of the agent's σ for another in its session.
func (s *seat) Vouch(ctx context.Context, c session.Vouch) (hypervisor.Bond, error) {
	return s.front.Vouch(ctx, c)
}
