// Command dbos runs three durable steps over and over, as sagas of the hypervisor and as workflows of DBOS Transact for Go on
// PostgreSQL, in turns on one machine, and prints how many of each come to their end in a second. See README.md.
//
// It is a module of its own, so that nothing of DBOS is a dependency of the hypervisor's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	var o options
	flag.IntVar(&o.callers, "callers", 256, "how many run at once")
	flag.IntVar(&o.rounds, "rounds", 8, "rounds of each")
	flag.DurationVar(&o.round, "round", time.Second, "how long a round is")
	flag.StringVar(&o.dir, "dir", "", "where data is written, and removed again: the disk that is measured; empty: the system's directory for temporary files")
	flag.StringVar(&o.postgres, "postgres", "", "directory of initdb and postgres; empty: the newest under /usr/lib/postgresql")
	flag.Parse()
	if err := compare(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "dbos:", err)
		os.Exit(1)
	}
}

type options struct {
	callers, rounds int
	round           time.Duration
	dir, postgres   string
}

// leastRatio is what is to be reached.
const leastRatio = 5

// A contender runs three durable steps, one after the other, and returns when their end is durable; caller is below the number of
// callers, and calls once at a time.
type contender struct {
	name, settings string
	run            func(ctx context.Context, caller int) error
	close          func(ctx context.Context) error
}

func compare(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "hypervisor-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ours, err := openHypervisor(ctx, dir, o.callers)
	if err != nil {
		return fmt.Errorf("opening the hypervisor: %w", err)
	}
	defer func() { err = errors.Join(err, ours.close(ctx)) }()
	theirs, err := openDBOS(ctx, dir, o.postgres)
	if err != nil {
		return fmt.Errorf("opening DBOS: %w", err)
	}
	defer func() { err = errors.Join(err, theirs.close(ctx)) }()
	var rates [2]float64
	for i, c := range []*contender{ours, theirs} { // warm up: connections, plans of statements
		if _, _, err := c.load(ctx, o.callers, o.round); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Printf("%d  %s: %s\n", i+1, c.name, c.settings)
	}
	var ended [2]int
	var lasted [2]time.Duration
	for range o.rounds {
		for i, c := range []*contender{ours, theirs} {
			n, long, err := c.load(ctx, o.callers, o.round)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			ended[i], lasted[i] = ended[i]+n, lasted[i]+long
		}
	}
	for i := range rates {
		rates[i] = float64(ended[i]) / lasted[i].Seconds()
	}
	ratio := rates[0] / rates[1]
	fmt.Printf("%d callers at once, %d rounds of %s each, in turns\n", o.callers, o.rounds, o.round)
	fmt.Printf("1  %.0f sagas/s of three durable steps\n2  %.0f workflows/s of three durable steps\nratio %.1f, to reach ≥ %d\n", rates[0], rates[1], ratio, leastRatio)
	if ratio < leastRatio {
		return fmt.Errorf("missed: %.1f times as fast, not %d", ratio, leastRatio)
	}
	return nil
}

// load has so many callers run over and over for so long, and returns how many runs came to their end, and after what time all had.
func (c *contender) load(ctx context.Context, callers int, long time.Duration) (int, time.Duration, error) {
	began := time.Now()
	var ended atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, callers)
	for i := range callers {
		wg.Go(func() {
			for time.Since(began) < long && errs[i] == nil {
				if errs[i] = c.run(ctx, i); errs[i] == nil {
					ended.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(ended.Load()), time.Since(began), errors.Join(errs...)
}
