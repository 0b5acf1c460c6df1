package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/agenthypervisor/hypervisor/internal/gateway"
)

// A Row is one figure, with what it is to reach and what ran beside it.
type Row struct {
	Name     string  `json:"name"` // of its measurement
	Work     string  `json:"work"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`               // of Value, Bound and Baseline: ns, µs, ms, s, B, KiB, commands/s
	Reach    string  `json:"reach,omitempty"`    // empty: it is only reported
	Bound    float64 `json:"bound,omitempty"`    // Reach as a figure of this run
	Beside   string  `json:"beside,omitempty"`   // what ran beside it; empty: nothing
	Baseline float64 `json:"baseline,omitempty"` // its figure; zero: none
	Ratio    float64 `json:"ratio,omitempty"`    // Value to Baseline
	OK       bool    `json:"ok"`                 // Value is within Bound
	Note     string  `json:"note,omitempty"`     // what else was seen
}

// atMost completes a row of which less is better.
func (r Row) atMost(bound float64) Row {
	r.Bound, r.OK = bound, r.Value <= bound
	return r.compared()
}

// atLeast completes a row of which more is better.
func (r Row) atLeast(bound float64) Row {
	r.Bound, r.OK = bound, r.Value >= bound
	return r.compared()
}

// reported completes a row that has nothing to reach.
func (r Row) reported() Row {
	r.OK = true
	return r.compared()
}

func (r Row) compared() Row {
	if r.Baseline > 0 {
		r.Ratio = r.Value / r.Baseline
	}
	return r
}

// A Measurement makes one or more rows.
type Measurement struct {
	Name  string
	About string
	run   func(context.Context, *run) ([]Row, error)
}

// All returns the measurements in the order of the table.
func All() []Measurement {
	return []Measurement{
		{"ring", "what σ, ceiling and descriptor say of one call", ringCheck},
		{"trust", "an agent's ring with bonds and an elevation, σ_eff when a voucher falls, the division of blame", trust},
		{"decision", "one admission in memory: decided, applied, encoded, chained, in the tree", decision},
		{"lifecycle", "a session in memory: create, join, activate, terminate, its root", lifecycle},
		{"pipeline", "a session in memory with three governed actions, its root", pipeline},
		{"saga", "a saga of three steps in memory", sagaInMemory},
		{"durable", "one durable command after the other", oneCommand},
		{"rate-few", "governed calls of 256 sessions at once, on disk", rateFew},
		{"rate-many", "governed calls over many sessions, on disk", rateMany},
		{"saga-rate", "steps of 256 sagas at once, on disk", sagaRate},
		{"saga-restart", "going on with sagas after a crash", sagaRestart},
		{"kill", "the kill switch, while others call", killSwitch},
		{"flood", "a call beside a flood of refused ones", flood},
		{"undo", "taking back what was done, and planning it", undoing},
		{"gateway", "a governed MCP call over stdio pipes, one agent and many", gatewayStdio},
		{"gateway-http", "a governed MCP call over Streamable HTTP, one agent and many", gatewayHTTP},
		{"start", "from starting the program to the answer of a first governed call", startUp},
		{"log", "verifying a long log, and serving again after a crash with it", longLog},
		{"memory", "what a session costs, loaded and let go", memory},
		{"idle", "what agents cost a daemon that are connected and do nothing", idleAgents},
	}
}

// A Size says how much is measured.
type Size struct {
	Sample   time.Duration // of each figure in memory
	Round    time.Duration // of each round of a rate
	Rounds   int
	Sessions int           // of rate-many
	Calls    int           // through the gateway, and durable commands
	Records  int           // of the long log
	Loaded   int           // sessions whose memory is weighed
	Idle     int           // agents connected to a daemon
	Settle   time.Duration // for so long a daemon's memory stays as it is before it is weighed
	Starts   int           // of the program
	Planned  int           // actions whose undo is planned at once
	Sagas    int           // under way at a crash
}

// The sizes.
var (
	Quick  = Size{200 * time.Millisecond, 250 * time.Millisecond, 8, 2_000, 300, 50_000, 500, 1_000, 12 * time.Second, 5, 10_000, 10_000}
	Normal = Size{time.Second, 400 * time.Millisecond, 16, 5_000, 1_000, 200_000, 1_000, 1_000, 12 * time.Second, 10, 10_000, 10_000}
	Long   = Size{time.Second, 500 * time.Millisecond, 30, 20_000, 3_000, 1_000_000, 2_000, 1_000, 12 * time.Second, 20, 10_000, 10_000}
)

// The subcommands of `bench` that are run as processes of their own.
const (
	ToolServer  = "tool-server"  // calls ServeTools
	PassThrough = "pass-through" // calls PassOn with what follows
)

// Options are what Run can be told.
type Options struct {
	Size Size
	// Dir is where data is written, and removed again: the disk that is measured. Empty: os.TempDir.
	Dir string
	// Program is the hypervisor's: its own tool server, bare proxy and daemon.
	Program string
	// Progress is told what is being done. Nil: nobody is.
	Progress func(text string)
}

// A run is a measurement under way.
type run struct {
	Size
	dir     string
	program string
	server  gateway.Command // calls ServeTools
	say     func(text string)
}

// Run makes a measurement.
func (m Measurement) Run(ctx context.Context, opts Options) (rows []Row, err error) {
	dir, err := os.MkdirTemp(opts.Dir, "hypervisor-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server := gateway.Command{Path: opts.Program, Args: []string{"bench", ToolServer}, Env: os.Environ()}
	r := &run{opts.Size, dir, opts.Program, server, opts.Progress}
	if r.say == nil {
		r.say = func(string) {}
	}
	rows, err = m.run(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("measuring %s: %w", m.Name, err)
	}
	for i := range rows {
		rows[i].Name = m.Name
	}
	return rows, nil
}

// A clock runs a thousand times as fast as the machine's.
type clock struct{ began time.Time }

const clockSpeed = 1000

func newClock() *clock { return &clock{time.Now()} }

// Now returns the fast time.
func (c *clock) Now() time.Time { return c.began.Add(clockSpeed * time.Since(c.began)) }

// After waits in fast time.
func (c *clock) After(d time.Duration) <-chan time.Time { return time.After(d / clockSpeed) }

// inTurns calls the functions in turns for so long, each for about a millisecond at once, and returns the median time of one
// operation of each. A function does n operations.
func inTurns(long time.Duration, functions ...func(n int)) []time.Duration {
	const turn = time.Millisecond
	n, samples := make([]int, len(functions)), make([][]time.Duration, len(functions))
	for i, f := range functions {
		once := func() time.Duration { return took(func() { f(n[i]) }) }
		for n[i] = 1; min(once(), once(), once()) < turn; n[i] *= 2 { // thrice: one may have been interrupted
		}
	}
	for began := time.Now(); time.Since(began) < long; {
		for i, f := range functions {
			samples[i] = append(samples[i], took(func() { f(n[i]) })/time.Duration(n[i]))
		}
	}
	medians := make([]time.Duration, len(functions))
	for i := range samples {
		medians[i] = percentile(samples[i], 50)
	}
	return medians
}

func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// percentile sorts the samples.
func percentile[T int | float64 | time.Duration](samples []T, p int) T {
	slices.Sort(samples)
	return samples[(len(samples)-1)*p/100]
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
