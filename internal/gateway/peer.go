package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// peer.go: what an agent asks of, and does for, those it shares its session with.

// A Peer is what a Server needs of who takes part in a session with others. Implementations are safe for concurrent use.
type Peer interface {
	// Elevate asks for a more privileged ring for a while.
	Elevate(ctx context.Context, c session.Elevate) (hypervisor.AskedElevation, error)
	// Vote votes on another's approval, or sponsors another's elevation.
	Vote(ctx context.Context, c session.Vote) (policy.Decision, error)
	// outgrown reports, once, that the agent's list of tools is another than it was told.
	outgrown(ctx context.Context) bool
}

// The hypervisor's own tools for that.
const (
	elevateTool = ownPrefix + "request_elevation"
	voteTool    = ownPrefix + "vote"
)

// peerDefinitions are those tools, as they are listed.
var peerDefinitions = []json.RawMessage{
	json.RawMessage(`{"name":"` + elevateTool + `","title":"Request elevation",` +
		`"description":"Ask to be in a more privileged ring for a while, when a call was refused because your ring is too low. It takes effect when a sponsor ` +
		`agrees: an approver, or for ring 2 another agent of ring 2 in this session. It does not replace the approval a call needs.",` +
		`"inputSchema":{"type":"object","properties":{"ring":{"type":"integer","enum":[1,2],"description":"the ring you need; a smaller number is more privilege"},` +
		`"for":{"type":"string","description":"how long, such as 5m, which is the default; at most 1h"},` +
		`"reason":{"type":"string","maxLength":256,"description":"what you need it for; your sponsor reads this"}},"required":["ring","reason"],"additionalProperties":false},` +
		`"annotations":{"readOnlyHint":false,"destructiveHint":false,"openWorldHint":false}}`),
	json.RawMessage(`{"name":"` + voteTool + `","title":"Vote",` +
		`"description":"Vote on what another agent asks for, or sponsor its elevation. hypervisor__status lists what waits for you under votes, with the digest ` +
		`to repeat: it stands for exactly what you were shown. A vote is not taken back.",` +
		`"inputSchema":{"type":"object","properties":{"approval":{"type":"string","description":"such as apr-7"},"digest":{"type":"string"},` +
		`"against":{"type":"boolean","description":"true: against; left out: for"}},"required":["approval","digest"],"additionalProperties":false},` +
		`"annotations":{"readOnlyHint":false,"destructiveHint":false,"openWorldHint":false}}`),
}

// peer does a call of one of these tools; ok says whether it is one.
func (s *Server) peer(ctx context.Context, name string, args json.RawMessage, modern bool) (r mcp.Result, ok bool, err error) {
	if s.colleague == nil {
		return nil, false, nil
	}
	var value any
	var d policy.Decision
	switch name {
	case elevateTool:
		value, d, err = s.elevate(ctx, args)
	case voteTool:
		value, d, err = s.vote(ctx, args)
	default:
		return nil, false, nil
	}
	var refused *hypervisor.Refused
	var bad *jsonrpc.Error
	switch {
	case errors.As(err, &bad):
		return nil, true, bad
	case errors.As(err, &refused):
		r, err = refusal(refused.Decision, modern)
		return r, true, err
	case err != nil:
		return nil, true, fmt.Errorf("%s: %w", name, err)
	case value == nil:
		r, err = refusal(d, modern)
		return r, true, err
	}
	structured, err := encode(value)
	if err != nil {
		return nil, true, fmt.Errorf("encoding an answer: %w", err)
	}
	r, err = said(string(structured), structured, false, modern)
	return r, true, err
}

// misfit is what a call with arguments that do not fit is answered.
func misfit(name string, why any) error {
	return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("the arguments of %s do not fit: %v", name, why)}
}

// arguments reads a call's arguments strictly.
func arguments(name string, args json.RawMessage, in any) error {
	if err := jsonv2.Unmarshal(args, in, jsonv2.RejectUnknownMembers(true)); err != nil {
		return misfit(name, document.DecodeFault(err))
	}
	return nil
}

// span reads a time such as 10m; zero where nothing is said.
func span(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := document.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, misfit(name, fmt.Errorf("for: want a time such as 10m, got %q", clip(text)))
	}
	return d, nil
}

// An ElevationAnswer is what the tool answers a program.
type ElevationAnswer struct {
	ID       string              `json:"id"`
	Ring     ring.Ring           `json:"ring"`
	Approval *policy.ApprovalRef `json:"approval"`
	Next     string              `json:"next"`
}

func (s *Server) elevate(ctx context.Context, args json.RawMessage) (any, policy.Decision, error) {
	var in struct {
		Ring   ring.Ring `json:"ring"`
		For    string    `json:"for"`
		Reason string    `json:"reason"`
	}
	if err := arguments(elevateTool, args, &in); err != nil {
		return nil, policy.Decision{}, err
	}
	d, err := span(elevateTool, in.For)
	if err != nil {
		return nil, policy.Decision{}, err
	}
	asked, err := s.colleague.Elevate(ctx, session.Elevate{Ring: in.Ring, For: d, Reason: in.Reason})
	if err != nil || asked.ID == "" {
		return nil, asked.Decision, err
	}
	return ElevationAnswer{asked.ID, in.Ring, asked.Approval, fmt.Sprintf("%s waits for %s; once it is granted you are in ring %d, and your call can be made again",
		asked.Approval.ID, strings.Join(asked.Approval.By, " or "), in.Ring)}, asked.Decision, nil
}

func (s *Server) vote(ctx context.Context, args json.RawMessage) (any, policy.Decision, error) {
	var in struct {
		Approval string `json:"approval"`
		Digest   string `json:"digest"`
		Against  bool   `json:"against"`
	}
	if err := arguments(voteTool, args, &in); err != nil {
		return nil, policy.Decision{}, err
	}
	d, err := s.colleague.Vote(ctx, session.Vote{Approval: in.Approval, Digest: in.Digest, Against: in.Against})
	if err != nil || !d.Allowed {
		return nil, d, err
	}
	return d, d, nil
}

// Elevate asks for a more privileged ring for a while.
func (f *Front) Elevate(ctx context.Context, c session.Elevate) (hypervisor.AskedElevation, error) {
	return f.session.Elevate(ctx, f.agent, c)
}

// Vote votes on another's approval, or sponsors another's elevation.
func (f *Front) Vote(ctx context.Context, c session.Vote) (policy.Decision, error) {
	return f.session.Vote(ctx, f.agent, c)
}

// A StatusVote is an approval that waits for the agent's vote, or for it as a sponsor.
type StatusVote struct {
	ID      string          `json:"id"`
	Agent   policy.DID      `json:"agent"` // who asks
	Action  string          `json:"action"`
	Args    json.RawMessage `json:"args,omitempty"` // of the call, or what the elevation is; left out: collected
	Digest  string          `json:"digest"`         // a vote repeats it
	Expires time.Time       `json:"expires"`
}

// maxVotes bounds the approvals that a status lists.
const maxVotes = 16

// votes lists what waits for the agent.
func (f *Front) votes(ctx context.Context, state *session.State) ([]StatusVote, error) {
	out := []StatusVote{}
	if !waitsFor(state, f.agent.DID) {
		return out, nil
	}
	views, err := f.session.Approvals(ctx)
	if err != nil {
		return nil, err
	}
	for i := range views {
		if v := &views[i]; len(out) < maxVotes && asks(&v.Approval, f.agent.DID) {
			out = append(out, StatusVote{v.ID, v.Agent, v.Action, v.Args, v.Digest.String(), v.Expires})
		}
	}
	return out, nil
}

func waitsFor(state *session.State, did policy.DID) bool {
	for _, ap := range state.Approvals {
		if asks(ap, did) {
			return true
		}
	}
	return false
}

// asks reports whether an approval waits for an agent's voice.
func asks(ap *session.Approval, did policy.DID) bool {
	if ap.Status != session.Open || ap.Agent == did || slices.Contains(ap.For, did) || slices.Contains(ap.Against, did) {
		return false
	}
	return slices.Contains(ap.Electors, did) || ap.Elevation != nil && slices.Contains(ap.By, "participant")
}
