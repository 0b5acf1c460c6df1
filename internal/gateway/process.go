package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Command is how an upstream is started.
type Command struct {
	Path string   // looked up in PATH, as exec.Command does
	Args []string // without the program's own name
	Env  []string // the whole environment; see BasicEnvironment and InheritedEnvironment
	Dir  string   // empty: the hypervisor's own
}

// basics are what a program needs to find its way; none of them is a secret.
var basics = []string{"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "USER", "SystemRoot", "USERPROFILE", "TEMP"}

// BasicEnvironment returns of environ (as os.Environ gives it) only what a program needs to find its way, and what is named in
// configured. For servers that configuration starts.
func BasicEnvironment(environ []string, configured map[string]string) []string {
	var out []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); slices.Contains(basics, name) {
			out = append(out, kv)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(configured)) {
		out = append(out, name+"="+configured[name])
	}
	return out
}

// InheritedEnvironment returns environ without the hypervisor's own variables, which may hold its tokens. For a command that
// the user runs himself and only puts the hypervisor before.
func InheritedEnvironment(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool { return strings.HasPrefix(kv, "HYPERVISOR_") })
}

// How long a server that is told to end has for each step before it is killed.
const (
	callOffFor = time.Second // first, if it is stopped in the middle of calls, to read that they are cancelled
	stopByEOF  = 2 * time.Second
	stopByTerm = 1 * time.Second
	drainFor   = time.Second // how long what a dead server has written is still read, should a stranger hold its pipe open
)

// A process is a child in a group of its own. All of the group ends with it.
type process struct {
	pid    int
	stdin  *os.File // ours to close
	stdout *os.File
	stderr *os.File
	exited chan struct{} // closed once the child is reaped and its group killed; err is valid then
	err    error
	pumps  sync.WaitGroup
}

// startProcess starts the command. What it says on stderr goes to log line by line, after prefix.
func startProcess(c Command, log io.Writer, prefix string) (*process, error) {
	var files [6]*os.File // stdin, stdout, stderr: the reading end, then the writing end
	for i := 0; i < len(files); i += 2 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(files[:])
			return nil, fmt.Errorf("making pipe: %w", err)
		}
		files[i], files[i+1] = r, w
	}
	p := &process{stdin: files[1], stdout: files[2], stderr: files[4], exited: make(chan struct{})}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would mean all of ours
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[3], files[5]
	ownGroup(cmd)

	started := make(chan error)
	p.pumps.Go(func() { p.reap(cmd, started) })
	err := <-started
	closeAll([]*os.File{files[0], files[3], files[5]})
	if err != nil {
		closeAll([]*os.File{files[1], files[2], files[4]})
		p.pumps.Wait()
		return nil, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	p.pumps.Go(func() {
		copyLines(log, p.stderr, prefix)
		_ = p.stderr.Close()
	})
	return p, nil
}

// reap starts the child and waits for it. On Linux the kernel kills the child when the thread that forked it ends, so that it
// does not outlive a SIGKILL of ours; hence the thread is kept for as long as the child lives.
func (p *process) reap(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	started <- nil
	p.err = cmd.Wait()
	// The leader is gone; its children are not to go on without it. Its number is free again from here on if it has none,
	// but would have to be given out and made a group's within microseconds to be anybody else's.
	killGroup(p.pid)
	// The pipes end with their last holder. One that left the group could keep them open: it is not waited for.
	_ = p.stdout.SetReadDeadline(time.Now().Add(drainFor))
	_ = p.stderr.SetReadDeadline(time.Now().Add(drainFor))
	close(p.exited)
}

// stop ends the process as MCP asks (close its input, then signals), and kills what is left of its group. It returns when
// nothing of ours waits for it any more.
func (p *process) stop(clock Clock) {
	_ = p.stdin.Close()
	for _, step := range []struct {
		wait time.Duration
		then func(int)
	}{{stopByEOF, terminateGroup}, {stopByTerm, killGroup}} {
		select {
		case <-p.exited:
		case <-clock.After(step.wait):
			step.then(p.pid)
		}
	}
	p.kill()
}

// kill kills the group and waits for the child's end.
func (p *process) kill() {
	select {
	case <-p.exited:
	default:
		killGroup(p.pid)
		<-p.exited
	}
	_ = p.stdin.Close()
	_ = p.stdout.Close()
}

// ending says how a process that has exited ended.
func (p *process) ending() error {
	if p.err == nil {
		return errors.New("the server ended")
	}
	return fmt.Errorf("the server ended: %w", p.err)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// maxLogLine bounds a line of a server's stderr; the rest of a longer one is dropped.
const maxLogLine = 4 << 10

// copyLines copies lines after a prefix, each cut to maxLogLine and with nothing in it that is hidden or drives a terminal.
// It reads on when writing fails: a server must not block on its own diagnostics.
func copyLines(w io.Writer, r io.Reader, prefix string) {
	br := bufio.NewReaderSize(r, maxLogLine)
	for {
		part, err := br.ReadSlice('\n')
		if len(bytes.TrimSpace(part)) > 0 {
			text := neutralText(strings.ReplaceAll(strings.ToValidUTF8(strings.TrimRight(string(part), "\r\n"), "\uFFFD"), "\r", "\uFFFD"))
			if errors.Is(err, bufio.ErrBufferFull) {
				text += "…"
			}
			_, _ = io.WriteString(w, prefix+text+"\n")
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			err = skipLine(br)
		}
		if err != nil {
			return
		}
	}
}
