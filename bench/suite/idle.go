package suite

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// idle.go: what agents cost that are connected and do nothing.

// idleAgents weighs a daemon by its resident memory: after one agent has listed its tools and gone, and again with so many agents
// connected, each with a session of the protocol of 2025-11-25, an open stream, and the tools listed. The clients are in this
// process, and all that the daemon's own memory grew by is counted, whatever it is for.
func idleAgents(ctx context.Context, r *run) ([]Row, error) {
	config, err := r.writeConfig(r.Idle)
	if err != nil {
		return nil, err
	}
	d, err := r.startDaemon(ctx, config)
	if err != nil {
		return nil, err
	}
	rows, err := r.weighIdle(ctx, d)
	return rows, errors.Join(err, d.end())
}

func (r *run) weighIdle(ctx context.Context, d *daemon) ([]Row, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: r.Idle}
	defer transport.CloseIdleConnections()
	first, err := d.listed(ctx, agentClient("", transport))
	if err == nil {
		err = first.Close()
	}
	if err != nil {
		return nil, err
	}
	empty := r.settled(d.cmd.Process.Pid)
	if empty == 0 {
		r.say("this system does not tell what memory a process has: not measured")
		return nil, nil
	}
	r.say(fmt.Sprintf("connecting %d agents", r.Idle))
	tokens, err := d.seats(ctx, r.Idle)
	if err != nil {
		return nil, err
	}
	all := make([]*mcp.ClientSession, r.Idle)
	err = eachOf(r.Idle, func(i int) (err error) {
		all[i], err = d.listed(ctx, agentClient(tokens[i], transport))
		return err
	})
	if err != nil {
		return nil, err
	}
	held := r.settled(d.cmd.Process.Pid) - empty
	r.say("disconnecting")
	for _, cs := range all {
		err = errors.Join(err, cs.Close())
	}
	const mib = 1 << 20
	const bound = 64
	return []Row{Row{Work: fmt.Sprintf("memory, %d idle agents above the empty daemon", r.Idle), Value: held / mib, Unit: "MiB",
		Reach: "≤ 64 MiB", Note: fmt.Sprintf("empty %.0f MiB", empty/mib)}.atMost(bound)}, err
}

// listed connects an agent, with a session and a stream of the protocol of 2025-11-25, and has the tools listed.
func (d *daemon) listed(ctx context.Context, c *http.Client) (*mcp.ClientSession, error) {
	cs, err := connectTo(ctx, d.mcp, c, "2025-11-25")
	if err != nil {
		return nil, err
	}
	_, err = cs.ListTools(ctx, nil)
	return cs, err
}

// settled returns a process's resident memory once it has hardly changed for as long as the run waits for that: a daemon gives
// back what it does not need when it has had nothing to do for a few seconds.
func (r *run) settled(pid int) float64 {
	const looks, hardly = 20, 0.01
	was := resident(pid)
	for still := 0; still < looks; still++ {
		time.Sleep(r.Settle / looks)
		if now := resident(pid); now > was*(1+hardly) || now < was*(1-hardly) {
			was, still = now, 0
		}
	}
	return resident(pid)
}
