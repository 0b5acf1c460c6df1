package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/agenthypervisor/hypervisor/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketAt serves a handler on a data directory's control socket.
func socketAt(t *testing.T, dir string, h http.Handler) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	_ = s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
}

// shortDir returns a directory whose path leaves room for a socket's name, wherever tests are run.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestFindGoesFromTheDirectoryToTheStateDirectoryToTheAddress(t *testing.T) {
	home := shortDir(t)
	t.Setenv("XDG_STATE_HOME", home)
	state := filepath.Join(home, "hypervisor")
	where := func(target Target) string {
		clients, err := Find(target)
		var lost *UnreachableError
		if errors.As(err, &lost) {
			return "unreachable " + lost.Where
		}
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, c := range clients {
			all = append(all, c.Where())
			c.Close()
		}
		return strings.Join(all, " ")
	}
	check := func(name string, target Target, want string) {
		t.Helper()
		if got := where(target); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	other := filepath.Join(home, "other")
	check("nothing runs, nothing is said", Target{}, DefaultServer)
	check("nothing runs", Target{Fallback: "http://b:1"}, "http://b:1")
	check("nothing runs in the directory", Target{Dir: other, Fallback: "http://b:1"}, "unreachable "+filepath.Join(other, socketName))
	socketAt(t, filepath.Join(state, "a"), http.NotFoundHandler())
	socketAt(t, filepath.Join(state, "b"), http.NotFoundHandler())
	socketAt(t, other, http.NotFoundHandler())
	if err := os.MkdirAll(filepath.Join(state, "dead"), 0o700); err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(state, "a", socketName) + " " + filepath.Join(state, "b", socketName)
	check("two run", Target{Fallback: "http://b:1"}, both)
	check("a directory is said", Target{Dir: other}, filepath.Join(other, socketName))
	check("an address is said", Target{Server: "http://c:1"}, "http://c:1")
	check("an address that is none", Target{Server: "c:1"}, `server "c:1" is not an address such as http://127.0.0.1:7700`)
}

func TestATokenGoesToItsServerAlone(t *testing.T) {
	var got, elsewhere []string
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Get("Authorization"))
	}))
	defer thief.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"))
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "operator.token")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", " \n", "listen: x\ndata: y\n", "tök"} {
		bad := filepath.Join(t.TempDir(), "no-token")
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Find(Target{Server: server.URL, TokenFile: bad}); err == nil || !strings.Contains(err.Error(), "no-token holds none") {
			t.Errorf("a file with %q: %v", text, err)
		}
	}
	clients, err := Find(Target{Server: server.URL, TokenFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer clients[0].Close()
	var lost *UnreachableError
	if _, err := clients[0].Session(t.Context(), "ses-1"); !errors.As(err, &lost) {
		t.Errorf("a redirection: %v, want UnreachableError", err)
	}
	if len(got) != 1 || got[0] != "Bearer secret" || len(elsewhere) != 0 {
		t.Errorf("the server saw %q, another %q", got, elsewhere)
	}
}

func TestAStrangersAnswerIsNoHypervisors(t *testing.T) {
	for _, answer := range []func(http.ResponseWriter){
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		func(w http.ResponseWriter) { fmt.Fprint(w, "<html>hello") },
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway); fmt.Fprint(w, `{"error":"no"}`) },
		func(w http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
		c, err := HTTP(server.URL, "")
		if err != nil {
			t.Fatal(err)
		}
		var lost *UnreachableError
		if _, err := c.Session(t.Context(), "ses-1"); !errors.As(err, &lost) || IsNotFound(err) {
			t.Errorf("got %v, want UnreachableError", err)
		}
		c.Close()
		server.Close()
	}
}

func TestOneAsksAll(t *testing.T) {
	notFound := &Error{http.StatusNotFound, api.Error{Code: "not_found", Message: "no such thing"}}
	ambiguous := &Error{http.StatusConflict, api.Error{Code: api.CodeAmbiguous, Details: api.ErrorDetails{Candidates: []string{"x", "y"}}}}
	down := &UnreachableError{Where: "b"}
	a, b := &Client{where: "a"}, &Client{where: "b"}
	for _, c := range []struct {
		name    string
		answers map[string]error // nil: it has it
		from    string
		err     string
	}{
		{"one has it", map[string]error{"a": notFound, "b": nil}, "b", ""},
		{"none has it", map[string]error{"a": notFound, "b": notFound}, "", "no such thing"},
		{"both have it", map[string]error{"a": nil, "b": nil}, "", "several sessions have it; say which: a, b"},
		{"one has two", map[string]error{"a": ambiguous, "b": notFound}, "", "several sessions have it; say which: x, y"},
		{"one does not answer", map[string]error{"a": nil, "b": down}, "", "no hypervisor answers at b"},
	} {
		from, _, err := One(t.Context(), []*Client{a, b}, func(_ context.Context, x *Client) (string, error) { return x.where, c.answers[x.where] },
			func(s string) string { return s })
		if got := fmt.Sprint(err); err != nil && got != c.err || err == nil && (c.err != "" || from.where != c.from) {
			t.Errorf("%s: %v, %v; want %s %s", c.name, from, err, c.from, c.err)
		}
	}
}

func TestMergeEndsAtTheFirstError(t *testing.T) {
	a, b := &Client{where: "a"}, &Client{where: "b"}
	list := func(c *Client) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			if yield(c.where, nil) && c == a {
				yield("", errors.New("lost"))
			}
		}
	}
	var got []string
	for v, err := range Merge([]*Client{a, b}, list) {
		got = append(got, v+fmt.Sprint(err))
	}
	if want := "a<nil> lost"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
