package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// undo.go: an agent takes back what it did itself in its session.

// undoTool is the hypervisor's own tool.
const undoTool = ownPrefix + "undo"

var undoDefinition = json.RawMessage(`{"name":"` + undoTool + `","title":"Undo",` +
	`"description":"Take back what you did yourself in this session: one action by its id, or everything since a time such as 10m, newest first. ` +
	`With plan true nothing is done; you are told what could be taken back, and what not and why. It stops at the first surprise.",` +
	`"inputSchema":{"type":"object","properties":{"action":{"type":"string","description":"such as act-12; leave out for all you did"},` +
	`"since":{"type":"string","description":"only what you did so long ago or later, such as 10m"},` +
	`"plan":{"type":"boolean","description":"only say what would be done"}},"additionalProperties":false},` +
	`"annotations":{"readOnlyHint":false,"destructiveHint":true,"openWorldHint":false}}`)

// An UndoAnswer is what the tool answers a program.
type UndoAnswer struct {
	Steps   []UndoAnswerStep `json:"steps"`
	Undone  int              `json:"undone"`
	Left    int              `json:"left"`
	Stopped string           `json:"stopped,omitempty"`
}

// An UndoAnswerStep is one action, and what became of it.
type UndoAnswerStep struct {
	ID       string       `json:"id"`
	Action   string       `json:"action"`
	Resource string       `json:"resource,omitempty"`
	Kind     session.Kind `json:"kind"`
	State    string       `json:"state"`
	Reason   string       `json:"reason,omitempty"`
}

// undo does a call of the undo tool.
func (s *Server) undo(ctx context.Context, args json.RawMessage, modern bool) (mcp.Result, error) {
	req, err := undoRequest(args)
	if err != nil {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: err.Error()}
	}
	report, err := s.session.Undo(ctx, req)
	var refused *hypervisor.Refused
	switch {
	case errors.As(err, &refused):
		return refusal(refused.Decision, modern)
	case errors.Is(err, hypervisor.ErrNotFound):
		return refusal(policy.Refuse(policy.NotFound, "%v", err), modern)
	case err != nil:
		return nil, fmt.Errorf("undoing: %w", err)
	}
	answer := UndoAnswer{Steps: []UndoAnswerStep{}, Undone: report.Undone, Left: report.Left, Stopped: neutralText(report.Stopped)}
	for _, step := range report.Steps {
		answer.Steps = append(answer.Steps, UndoAnswerStep{step.ID, step.Action, neutralText(step.Resource), step.Kind, step.State, neutralText(step.Reason)})
	}
	structured, err := encode(answer)
	if err != nil {
		return nil, fmt.Errorf("encoding an undo: %w", err)
	}
	return said(answer.text(req.Plan), structured, !req.Plan && report.Left > 0, modern)
}

func undoRequest(args json.RawMessage) (hypervisor.UndoRequest, error) {
	var in struct {
		Action string `json:"action"`
		Since  string `json:"since"`
		Plan   bool   `json:"plan"`
	}
	req := hypervisor.UndoRequest{}
	if err := jsonv2.Unmarshal(args, &in, jsonv2.RejectUnknownMembers(true)); err != nil {
		return req, fmt.Errorf("the arguments of %s do not fit: %s", undoTool, document.DecodeFault(err))
	}
	req.Action, req.Plan = in.Action, in.Plan
	if in.Since != "" {
		d, err := document.ParseDuration(in.Since)
		if err != nil || d <= 0 {
			return req, fmt.Errorf("since: want a time such as 10m or 2d, got %q", clip(in.Since))
		}
		req.Since = d
	}
	return req, nil
}

// text is the answer for a model.
func (a *UndoAnswer) text(plan bool) string {
	var b strings.Builder
	if !plan {
		fmt.Fprintf(&b, "%d undone, %d left\n", a.Undone, a.Left)
	}
	if a.Stopped != "" {
		fmt.Fprintf(&b, "stopped: %s\n", a.Stopped)
	}
	for _, s := range a.Steps {
		fmt.Fprintf(&b, "%s %s: %s, %s", s.ID, strings.TrimSpace(s.Action+" "+s.Resource), s.Kind, s.State)
		if s.Reason != "" {
			fmt.Fprintf(&b, " (%s)", s.Reason)
		}
		b.WriteByte('\n')
	}
	if len(a.Steps) == 0 {
		b.WriteString("there is nothing to take back\n")
	}
	return b.String()
}

// Undo takes back what the agent did in its session.
func (f *Front) Undo(ctx context.Context, req hypervisor.UndoRequest) (hypervisor.UndoReport, error) {
	return f.session.Undo(ctx, f.agent, req)
}

// Undo takes back what the agent did in its session.
func (s *seat) Undo(ctx context.Context, req hypervisor.UndoRequest) (hypervisor.UndoReport, error) {
	s.prepare(ctx)
	return s.front.Undo(ctx, req)
}
