package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agenthypervisor/hypervisor/policy"
)

// kill.go: an agent that does not stop is stopped (SPEC §7).

// scribble writes over a note again and again, and says so after the first time, until it is cancelled.
func scribble(ctx context.Context, r *mcp.CallToolRequest, path string) (string, error) {
	const pause = 20 * time.Millisecond
	for n := 1; ; n++ {
		if err := os.WriteFile(path, fmt.Appendf(nil, "scribble %d", n), 0o600); err != nil {
			return "", err
		}
		if n == 1 {
			if err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: 1, Message: "scribbling"}); err != nil {
				return "", err
			}
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pause):
		}
	}
}

// kill has an agent begin a call that would not end, and an operator kill it once it is under way.
func (st *stage) kill(ctx context.Context, s *step, line *Line) error {
	line.Did = "kill " + string(s.kill)
	answered := make(chan error, 1)
	go func() { // ends with the call, which the kill brings about, or ctx
		p := &mcp.CallToolParams{Name: s.tool, Arguments: s.args}
		p.SetProgressToken("scribble")
		res, err := st.agents[s.kill].CallTool(ctx, p)
		if err == nil && !res.IsError {
			err = errors.New("a call that was killed is answered as done")
		}
		answered <- err
	}()
	select {
	case <-st.begun:
	case err := <-answered:
		return fmt.Errorf("the call ended before it was killed: %w", err)
	}
	report, err := st.hv.Kill(ctx, policy.Operator(s.who), policy.Kill{Scope: policy.Scope{Agent: s.kill}, Reason: policy.Manual, Note: "scribbles"})
	if err != nil {
		return err
	}
	if err := <-answered; err != nil {
		return err
	}
	var said []string
	for _, c := range report.Cancelled {
		said = append(said, fmt.Sprintf("cancelled %s %s: %s", c.ID, c.Action, c.Outcome))
	}
	line.Result = strings.Join(said, ", ")
	line.OK = len(report.Cancelled) == 1 && len(report.StillRunning) == 0 && report.Recorded
	return nil
}
