package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5"
)

// openDBOS starts a PostgreSQL of its own, with the settings that it comes with, and DBOS on it.
func openDBOS(ctx context.Context, dir, programs string) (*contender, error) {
	db, err := startPostgres(ctx, filepath.Join(dir, "postgres"), programs)
	if err != nil {
		return nil, err
	}
	settings, err := db.settings(ctx)
	if err != nil {
		return nil, errors.Join(err, db.stop())
	}
	dc, err := dbos.NewContext(ctx, dbos.Config{DatabaseURL: db.url, AppName: "bench", Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return nil, errors.Join(err, db.stop())
	}
	dbos.RegisterWorkflow(dc, threeSteps)
	if err := dbos.Launch(dc); err != nil {
		return nil, errors.Join(err, db.stop())
	}
	return &contender{
		name:     "DBOS Transact for Go, workflows on PostgreSQL",
		settings: settings + "; DBOS as it comes",
		run: func(context.Context, int) error {
			h, err := dbos.RunWorkflow(dc, threeSteps, "")
			if err != nil {
				return err
			}
			_, err = h.GetResult()
			return err
		},
		close: func(context.Context) error {
			dbos.Shutdown(dc, 10*time.Second)
			return db.stop()
		},
	}, nil
}

func step(context.Context) (string, error) { return "done", nil }

func threeSteps(ctx dbos.Context, _ string) (last string, err error) {
	for range 3 {
		if last, err = dbos.RunAsStep(ctx, step); err != nil {
			return "", err
		}
	}
	return last, nil
}

// A postgres is a server of our own on loopback.
type postgres struct {
	cmd *exec.Cmd
	url string
}

// startPostgres makes a cluster in dir and serves it. As root it does so as the user postgres, since PostgreSQL does not run as root.
func startPostgres(ctx context.Context, dir, programs string) (*postgres, error) {
	if programs == "" {
		found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
		if err != nil || len(found) == 0 {
			return nil, errors.New("no PostgreSQL is installed under /usr/lib/postgresql; install Debian's package postgresql, or say --postgres DIR")
		}
		programs = slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
	}
	as, err := owner(dir)
	if err != nil {
		return nil, err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(programs, "initdb"), "-D", dir, "-U", "postgres", "-A", "trust", "-E", "UTF8")
	initdb.SysProcAttr, initdb.Dir = as, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	p := &postgres{url: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)}
	p.cmd = exec.Command(filepath.Join(programs, "postgres"), "-D", dir, "-k", dir, "-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(port))
	p.cmd.SysProcAttr, p.cmd.Dir = as, dir
	said := &strings.Builder{}
	p.cmd.Stderr = said
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	const patience = time.Minute
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		conn, err := pgx.Connect(ctx, p.url)
		if err == nil {
			return p, conn.Close(ctx)
		}
		if time.Since(began) > patience {
			return nil, errors.Join(err, p.stop(), errors.New(said.String()))
		}
	}
}

// version returns the number in a path such as /usr/lib/postgresql/15/bin; zero: there is none.
func version(bin string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	if err != nil {
		return 0
	}
	return n
}

// owner makes dir and returns how to run a program as its owner.
func owner(dir string) (*syscall.SysProcAttr, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, os.Chmod(filepath.Dir(dir), 0o711)
}

// settings says what the server's durability rests on.
func (p *postgres) settings(ctx context.Context) (string, error) {
	conn, err := pgx.Connect(ctx, p.url)
	if err != nil {
		return "", err
	}
	var all []string
	for _, name := range []string{"server_version", "fsync", "synchronous_commit", "wal_sync_method", "full_page_writes", "shared_buffers", "max_connections"} {
		var value string
		if err := conn.QueryRow(ctx, "SHOW "+name).Scan(&value); err != nil {
			return "", errors.Join(err, conn.Close(ctx))
		}
		all = append(all, name+"="+value)
	}
	return strings.Join(all, ", "), conn.Close(ctx)
}

// stop ends the server as its operator would, and waits for it.
func (p *postgres) stop() error {
	return errors.Join(p.cmd.Process.Signal(os.Interrupt), p.cmd.Wait()) // a fast shutdown: open connections are ended
}
