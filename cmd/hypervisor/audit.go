package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

func newAuditCommand(g *globals) *cobra.Command {
	return group("audit", "Verify logs", "  hypervisor audit verify ./hypervisor-data", auditVerify(g))
}

func auditVerify(g *globals) *cobra.Command {
	var head string
	cmd := &cobra.Command{
		Use: "verify [DIR|FILE]", Short: "Verify a log: find any change, loss, reordering, insertion or truncation, and where",
		Long: `Verify the log of a data directory, or of its log.db, record by record: it needs no hypervisor and no secret, changes nothing,
and may run beside the hypervisor that writes. Nothing stored is believed.

The newest records of a log can be cut off unseen by who can write it, unless you hold an earlier head: write down the one that
is printed and give it to --head later.

DIR is --data's if it is not said, else ` + config.DefaultData + `. Exit code 1: the log is not what was recorded.`,
		Args:    cobra.MaximumNArgs(1),
		Example: "  hypervisor audit verify ./hypervisor-data\n  hypervisor audit verify ./hypervisor-data --head 812:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			v := verification{g: g, began: time.Now()}
			if head != "" {
				h, err := audit.ParseHead(head)
				if err != nil {
					return usage("--head: %w", err)
				}
				v.head = &h
			}
			dir, err := logDir(append(args, g.data, config.DefaultData))
			if err != nil {
				return err
			}
			ctx, cancel := g.context(cmd, true)
			defer cancel()
			return v.run(ctx, dir)
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "what was known of the log earlier, as N:HEX: its first N records have this root")
	return cmd
}

// logDir returns the first directory that is said; a log.db stands for the one it is in.
func logDir(said []string) (string, error) {
	for _, path := range said {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return "", unopened(fmt.Errorf("%w; name a data directory", err))
		}
		if info.IsDir() {
			return path, nil
		}
		if filepath.Base(path) != logFile {
			return "", unopened(fmt.Errorf("%s is neither a data directory nor a %s", path, logFile))
		}
		return filepath.Dir(path), nil
	}
	panic("hypervisor: no directory is said")
}

const logFile = "log.db"

const (
	// moveTries is how often a log that changes while it is read is read again.
	moveTries = 3
	// patience is how long a verification is silent.
	patience = 2 * time.Second
	// lookEvery is how many records are read between two looks at the clock.
	lookEvery = 4096
)

// A verification is one reading of a log.
type verification struct {
	g     *globals
	head  *audit.Head
	began time.Time
	shown time.Time // when progress was last shown
}

// A verdict is what `audit verify --json` answers.
type verdict struct {
	OK       bool         `json:"ok"`
	Sessions int          `json:"sessions"`
	Records  uint64       `json:"records"` // with a fault: those before it
	Root     string       `json:"root"`    // empty with a fault
	Fault    *audit.Fault `json:"fault,omitempty"`
}

func (v *verification) run(ctx context.Context, dir string) error {
	sum, out, err := v.read(ctx, dir)
	for try := 1; errors.Is(err, sqlitelog.ErrMoved) && try < moveTries; try++ {
		sum, out, err = v.read(ctx, dir)
	}
	v.endProgress()
	var fault *audit.Fault
	switch {
	case errors.As(err, &fault):
	case errors.Is(err, eventlog.ErrCorrupt):
		fault = &audit.Fault{What: err.Error()}
	case errors.Is(err, fs.ErrNotExist):
		return unopened(fmt.Errorf("there is no log in %s; name a data directory", dir))
	case err != nil:
		return unopened(err)
	}
	if fault != nil {
		out.Fault, err = fault, fault
	} else {
		out = verdict{OK: true, Sessions: sum.Sessions, Records: sum.Records, Root: sum.Root.String()}
	}
	if v.g.json {
		if err := v.g.printJSON(out); err != nil {
			return err
		}
	}
	if fault != nil {
		return fmt.Errorf("the log in %s is not what was recorded: %w", dir, err)
	}
	if !v.g.json {
		v.g.printf("the log is whole: %s (%d not ended), %s\nroot  %s\nhead  %s\n", count(sum.Sessions, "session", "sessions"), sum.Open,
			count(sum.Records, "record", "records"), out.Root, audit.Head{Records: sum.Records, Root: sum.Root}.String())
	}
	return nil
}

// read gives the log to a verifier. Of a log with a fault it says what was read before that.
func (v *verification) read(ctx context.Context, dir string) (sum audit.Summary, out verdict, err error) {
	r, err := sqlitelog.OpenReader(ctx, dir)
	if err != nil {
		return sum, out, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	check := audit.Verifier{Head: v.head, Blobs: blobs{ctx, r}}
	newest := map[string]uint64{} // position of each stream's newest record
	for row, err := range r.Tail(ctx, 0) {
		if err == nil {
			err = check.Add(audit.Stored{Position: row.Position, Stream: row.Stream, Seq: row.Seq, Hash: row.Hash, Body: row.Body, Payload: row.Payload})
		}
		if err == nil && row.Parent != newest[row.Stream] {
			err = &audit.Fault{Stream: row.Stream, Seq: row.Seq, What: "its row does not name the row before it in its stream"}
		}
		if err != nil {
			return sum, out, err
		}
		if newest[row.Stream] == 0 && strings.HasPrefix(row.Stream, audit.SessionPrefix) {
			out.Sessions++
		}
		newest[row.Stream] = row.Position
		if out.Records++; out.Records%lookEvery == 0 {
			v.progress(out.Records)
		}
	}
	sum, err = check.Close()
	return sum, out, err
}

// blobs reads the parts that stand outside their rows.
type blobs struct {
	ctx context.Context
	r   *sqlitelog.Reader
}

// Blob returns the bytes under a commitment.
func (b blobs) Blob(commitment audit.Hash) ([]byte, bool, error) {
	bytes, err := b.r.Blob(b.ctx, commitment)
	if errors.Is(err, eventlog.ErrNoBlob) {
		return nil, false, nil
	}
	return bytes, err == nil, err
}

// progress tells who waits, not before patience is over and once a second, that there is progress; in a file every ten seconds.
func (v *verification) progress(records uint64) {
	now, every, format := time.Now(), time.Second, "\rverifying: %d records"
	if !isTerminal(v.g.err) {
		every, format = 10*time.Second, "verifying: %d records\n"
	}
	if now.Sub(v.began) < patience || now.Sub(v.shown) < every {
		return
	}
	v.shown = now
	fmt.Fprintf(v.g.err, format, records)
}

// endProgress ends the line that progress stands on.
func (v *verification) endProgress() {
	if !v.shown.IsZero() && isTerminal(v.g.err) {
		fmt.Fprintln(v.g.err)
	}
}
