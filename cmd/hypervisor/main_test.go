package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

// The test binary is also the program, and a hypervisor for it to talk to.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hypervisor": func() { os.Exit(run()) },
		"testserver": func() { os.Exit(serveTest()) },
		"slowserver": func() { os.Exit(serveSlow()) },
		"filing":     func() { os.Exit(serveFiling()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a race-built program waits a second at its end
			env.Setenv("HOME", env.WorkDir+"/home")
			env.Setenv("XDG_STATE_HOME", env.WorkDir+"/state")
			env.Setenv("XDG_RUNTIME_DIR", env.WorkDir+"/run")
			env.Setenv("HYPERVISOR_SERVER", "http://127.0.0.1:1") // nobody listens on port 1
			env.Values[serversKey{}] = map[string]*child{}
			return os.Mkdir(env.WorkDir+"/run", 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": startServer, "daemon": startDaemon, "tell": tellServer, "stop": stopServer, "crash": crashServer, "exits": exits, "flip": flip, "mode": mode,
		},
	})
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s lacks an example or a description", cmd.CommandPath())
		}
		for _, line := range strings.Split(cmd.Example, "\n") {
			if !strings.HasPrefix(line, "  hypervisor ") {
				t.Errorf("%s: example %q does not begin with two spaces and the program", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&globals{}))
}

func TestCompletionIsWrittenForEachShell(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var out, errout bytes.Buffer
		if code := execute(context.Background(), []string{"completion", shell}, nil, &out, &errout); code != exitDone || !strings.Contains(out.String(), "hypervisor") {
			t.Errorf("completion %s: exit code %d, %d bytes, %s", shell, code, out.Len(), &errout)
		}
	}
}

func TestCleanShowsWhatWouldSteerATerminal(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain text, σ and 漢字 stay", "plain text, σ and 漢字 stay"},
		{"\x1b[2Jgone", `\u{1b}[2Jgone`},
		{"a\nb\tc\r", `a\u{a}b\u{9}c\u{d}`},
		{"\u009b31m", `\u{9b}31m`},
		{"\u202egnp.exe", `\u{202e}gnp.exe`},
		{"zero\u200bwidth\u2060", `zero\u{200b}width\u{2060}`},
		{"tag\U000e0041", `tag\u{e0041}`},
		{"bad\xffbyte", `bad\xffbyte`},
		{"\u3164", `\u{3164}`},
	} {
		if got := clean(c.in); got != c.want {
			t.Errorf("clean(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestEscapedJSONIsTheSameValue(t *testing.T) {
	in := "{\"a\":\"\u009b\u202eσ\U000e0041\"}"
	if got, want := string(escape([]byte(in))), `{"a":"\u009b\u202eσ\udb40\udc41"}`; got != want {
		t.Errorf("escape(%q) = %s, want %s", in, got, want)
	}
}
