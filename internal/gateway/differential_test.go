//go:build unix

package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
)

// differential_test.go: whatever an agent writes, what the rules are shown of it is what the server gets (docs/design.md
// "Gateway"), by the decoders that servers use: encoding/json, which folds case and takes the last of two names, and a strict one.

// params are what an agent may write as the params of tools/call, each with whether the call reaches the server.
var params = []struct {
	name, text string
	passes     bool
}{
	{"no arguments", `{"name":"up__see"}`, true},
	{"null as arguments", `{"name":"up__see","arguments":null}`, false},
	{"nothing in them", ` { "arguments" : { } , "name" : "up__see" } `, true},
	{"every kind of value", `{"name":"up__see","arguments":{"s":"x","t":true,"f":false,"n":null,"a":[1,[],{}],"o":{"o":{"":0}}}}`, true},
	{"a name escaped", `{"n\u0061me":"up__see","\u0061rguments":{"\u0070ath":"\u002fetc"}}`, true},
	{"a tool's name escaped", `{"name":"up__se\u0065","arguments":{}}`, true},
	{"names that differ by case", `{"name":"up__see","arguments":{"path":"/a","Path":"/b","PATH":"/c"}}`, true},
	{"names that fold to one", `{"name":"up__see","arguments":{"key":1,"` + "\u212a" + `ey":2,"is":3,"i` + "\u017f" + `":4}}`, true},
	{"names composed and not", `{"name":"up__see","arguments":{"` + "\u00e9" + `":1,"` + "e\u0301" + `":2}}`, true},
	{"names of an object's own", `{"name":"up__see","arguments":{"__proto__":{"a":1},"constructor":2,"name":"x","arguments":{"name":"y"}}}`, true},
	{"a name twice", `{"name":"up__see","arguments":{"path":"/a","path":"/b"}}`, false},
	{"a name twice, one escaped", `{"name":"up__see","arguments":{"path":"/a","\u0070ath":"/b"}}`, false},
	{"a name twice, deep", `{"name":"up__see","arguments":{"a":[[{"b":{"c":1,"c":1}}]]}}`, false},
	{"arguments twice", `{"name":"up__see","arguments":{"path":"/a"},"arguments":{"path":"/b"}}`, false},
	{"arguments in two cases", `{"name":"up__see","arguments":{"path":"/a"},"Arguments":{"path":"/b"}}`, false},
	{"arguments in capitals only", `{"name":"up__see","ARGUMENTS":{"path":"/b"}}`, false},
	{"a member that folds to arguments", `{"name":"up__see","argument` + "\u017f" + `":{"path":"/b"}}`, false},
	{"the name in two cases", `{"name":"up__see","Name":"up__other"}`, false},
	{"the name twice", `{"name":"up__see","name":"up__other"}`, false},
	{"whole numbers", `{"name":"up__see","arguments":{"a":9007199254740993,"b":-9223372036854775808,"c":18446744073709551615,"d":-0,"e":1e3}}`, true},
	{"a number beyond them", `{"name":"up__see","arguments":{"n":18446744073709551617}}`, false},
	{"a number far beyond them", `{"name":"up__see","arguments":{"n":1e400}}`, false},
	{"a number of many digits", `{"name":"up__see","arguments":{"n":1` + strings.Repeat("0", 5000) + `}}`, false},
	{"whole numbers that a float holds", `{"name":"up__see","arguments":{"a":1e20,"b":100000000000000000000,"c":1e300,"d":1.0,"e":0e999999999}}`, true},
	{"fractions", `{"name":"up__see","arguments":{"a":0.1,"b":3.14159265358979323846,"c":-0.0,"d":1e-500,"e":0.99999999999999999999,"f":5e-324}}`, true},
	{"no number", `{"name":"up__see","arguments":{"n":01}}`, false},
	{"nor one", `{"name":"up__see","arguments":{"n":NaN}}`, false},
	{"a pair of surrogates", `{"name":"up__see","arguments":{"\ud83d\ude00":"\uD83D\uDE00"}}`, true},
	{"half a pair", `{"name":"up__see","arguments":{"s":"\ud83d"}}`, false},
	{"a pair the wrong way", `{"name":"up__see","arguments":{"s":"\ude00\ud83d"}}`, false},
	{"half a pair in a name", `{"name":"up__see","arguments":{"\udfff":1}}`, false},
	{"invalid UTF-8", "{\"name\":\"up__see\",\"arguments\":{\"s\":\"\xc0\xaf\"}}", false},
	{"a surrogate in UTF-8", "{\"name\":\"up__see\",\"arguments\":{\"s\":\"\xed\xa0\x80\"}}", false},
	{"control characters", `{"name":"up__see","arguments":{"s":"\u0000\u001b\u007f\u0085","\u0000":1}}`, true},
	{"a control character as it is", "{\"name\":\"up__see\",\"arguments\":{\"s\":\"a\tb\"}}", false},
	{"what HTML and JavaScript escape", "{\"name\":\"up__see\",\"arguments\":{\"s\":\"<&>'\u2028\u2029\\/\",\"<\":\"\ufeff\"}}", true},
	{"what is hidden or turns text around", "{\"name\":\"up__see\",\"arguments\":{\"s\":\"\u202egpj.exe\u200b\U000e0041\"}}", true},
	{"a mark of byte order", "\ufeff" + `{"name":"up__see"}`, false},
	{"UTF-16", "{\x00\"\x00n\x00a\x00m\x00e\x00\"\x00", false},
	{"deep", deep(action.MaxDepth - 3), true},
	{"too deep", deep(action.MaxDepth), false},
	{"far too deep", deep(50_000), false},
	{"a comment", `{"name":"up__see"/*,*/}`, false},
	{"a comma too many", `{"name":"up__see","arguments":{"a":1,}}`, false},
	{"something after it", `{"name":"up__see"}{}`, false},
	{"a way out of the params", `{"name":"up__see"},"method":"tools/list"`, false},
	{"a way out of the message", `{"name":"up__see"}}{"a":{`, false},
	{"another method beside", `{"name":"up__see"},"Method":"tools/list"`, false},
	{"params beside", `{"name":"up__see"},"params":{"name":"up__see","arguments":{"path":"/b"}}`, false},
	{"arguments as text", `{"name":"up__see","arguments":"{}"}`, false},
	{"arguments as a list", `{"name":"up__see","arguments":[{}]}`, false},
	{"params as a list", `[{"name":"up__see"}]`, false},
	{"no params", `null`, false},
	{"another name", `{"name":"up__other","arguments":{}}`, false},
	{"the name without its server's", `{"name":"see__up","arguments":{}}`, false},
	{"a name with its end hidden", `{"name":"up__see\u0000","arguments":{}}`, false},
	{"a name in capitals", `{"name":"UP__SEE","arguments":{}}`, false},
	{"one's own notes", `{"name":"up__see","arguments":{"a":1},"_meta":{"progressToken":7,"x/y":{"arguments":{"a":2}}}}`, true},
	{"notes twice", `{"name":"up__see","arguments":{"a":1},"_meta":{},"_meta":{"progressToken":7}}`, false},
	{"more members", `{"name":"up__see","arguments":{"a":1},"task":{"ttl":1},"x":{"arguments":{"a":2}}}`, true},
}

func deep(n int) string {
	return `{"name":"up__see","arguments":{"a":` + strings.Repeat(`[`, n-2) + strings.Repeat(`]`, n-2) + `}}`
}

// A witness is rules that let everything pass and remember what they were shown.
type witness struct {
	mu    sync.Mutex
	shown []policy.Request
}

func (w *witness) Evaluate(r policy.Request) policy.Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown = append(w.shown, r)
	return policy.Verdict{}
}

// taken returns what was remembered and forgets it.
func (w *witness) taken() []policy.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.shown
	w.shown = nil
	return was
}

// A gate is one way from an agent to a server: said returns the answer to a message, and got what the server got of calls since.
type gate struct {
	name string
	said func(t *testing.T, message string) answer
	got  func() [][]byte
}

// gates opens the ways there are: over HTTP to a server over HTTP, as a client of the old and of the new protocol, and over
// stdio to a server over stdio.
func gates(tb testing.TB) (*witness, []gate) {
	hv, s := crowdedSession(tb, 2)
	w := &witness{}
	if d, err := hv.SetRules(tb.Context(), policy.Operator("did:mesh:admin"), w, "witness"); err != nil || !d.Allowed {
		tb.Fatal(d, err)
	}
	r := &recordingServer{}
	srv := httptest.NewServer(r)
	tb.Cleanup(srv.Close)
	h := hallOf(tb, hv, s, &HubOptions{Servers: []ServerSpec{{Name: "up", Endpoint: &Endpoint{URL: srv.URL}}},
		Claims: func(string, string) []action.Claim { return readOnly }})
	old := httpGate(tb, h, map[string]string{versionHeader: "2025-11-25"})
	modern := httpGate(tb, h, map[string]string{versionHeader: "2026-07-28", methodHeader: "tools/call", nameHeader: "up__see"})
	withNotes := func(t *testing.T, message string) answer {
		before, params, _ := strings.Cut(message, `"params":`)
		return modern(t, before+`"params":`+strings.Replace(params, "{", "{"+newNotes+",", 1))
	}
	line, calls := stdioGate(tb, NewFront(hv, s, policy.Agent(agentNo(1)), NewUpstream("up", child("mirror"), nil),
		&FrontOptions{Claims: func(string) []action.Claim { return readOnly }}))
	return w, []gate{{"over HTTP", old, r.taken}, {"over HTTP, new", withNotes, r.taken}, {"over stdio", line, calls}}
}

// newNotes is what a client of the new protocol says with each request.
const newNotes = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"}}`

// httpGate posts messages with these headers, in a session of a client where they are of the old protocol.
func httpGate(tb testing.TB, h *hall, headers map[string]string) func(*testing.T, string) answer {
	post := func(message string) (m answer, resp *http.Response) {
		r, err := http.NewRequest(http.MethodPost, h.url, strings.NewReader(message))
		if err != nil {
			tb.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		r.Header.Set("Authorization", "Bearer "+h.token(agentNo(0)))
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		if resp, err = http.DefaultClient.Do(r); err != nil {
			tb.Fatal(err)
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		if err != nil {
			tb.Fatal(err)
		}
		for line := range bytes.Lines(all) {
			data := bytes.TrimPrefix(bytes.TrimSpace(line), []byte("data: "))
			if bytes.HasPrefix(data, []byte("{")) && json.Unmarshal(data, &m) == nil && (m.Result != nil || m.Error != nil) {
				return m, resp
			}
		}
		return m, resp
	}
	if headers[methodHeader] == "" {
		_, resp := post(hello)
		headers[sessionHeader] = resp.Header.Get(sessionHeader)
		post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	}
	return func(t *testing.T, message string) answer {
		m, resp := post(message)
		if m.Result == nil && m.Error == nil && resp.StatusCode < http.StatusBadRequest {
			t.Errorf("%s without an answer", resp.Status)
		}
		return m
	}
}

// stdioGate writes messages to a front before the mirror, whose answers say what it got.
func stdioGate(tb testing.TB, f *Front) (say func(*testing.T, string) answer, got func() [][]byte) {
	in, out, agentOut, agentIn := pipes(tb)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, in, out) }()
	tb.Cleanup(func() {
		_ = agentOut.Close()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		cancel()
		_ = agentIn.Close()
	})
	lines := bufio.NewReaderSize(agentIn, 64<<10)
	exchange := func(message string) (m answer, err error) {
		if _, err := io.WriteString(agentOut, message+"\n"); err != nil {
			return m, err
		}
		for m.Result == nil && m.Error == nil { // it may be told things meanwhile
			line, err := lines.ReadBytes('\n')
			if err == nil {
				m = answer{}
				err = json.Unmarshal(line, &m)
			}
			if err != nil {
				return m, err
			}
		}
		return m, nil
	}
	if m, err := exchange(hello); err != nil || m.Error != nil {
		tb.Fatal(m.Error, err)
	}
	if _, err := io.WriteString(agentOut, `{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n"); err != nil {
		tb.Fatal(err)
	}
	var calls [][]byte
	say = func(t *testing.T, message string) answer {
		m, err := exchange(strings.ReplaceAll(message, "\n", " "))
		if err != nil {
			t.Fatal(err)
		}
		var r struct{ Content []struct{ Text string } }
		if json.Unmarshal(m.Result, &r) == nil && len(r.Content) == 1 {
			if mirrored, ok := strings.CutPrefix(r.Content[0].Text, mirrorPrefix); ok {
				call, err := base64.StdEncoding.DecodeString(mirrored)
				if err != nil {
					t.Fatal(err)
				}
				calls = append(calls, call)
			}
		}
		return m
	}
	return say, func() [][]byte { was := calls; calls = nil; return was }
}

// A recordingServer is a server over HTTP, written by hand, that keeps the calls it gets as they are.
type recordingServer struct {
	mu    sync.Mutex
	calls [][]byte
}

func (s *recordingServer) taken() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.calls
	s.calls = nil
	return was
}

func (s *recordingServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	reply, call := mirrored(body, "see")
	if call {
		s.mu.Lock()
		s.calls = append(s.calls, body)
		s.mu.Unlock()
	}
	if reply == "" {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, reply) // who does not read it fails by itself
}

// mirrorServer is the same over stdio, where a tool keeps its name.
func mirrorServer() {
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		if reply, _ := mirrored(bytes.TrimSuffix(line, []byte("\n")), "up__see"); reply != "" {
			fmt.Println(reply)
		}
	}
}

// mirrorPrefix begins the text with which a call is answered; the call follows, in base64.
const mirrorPrefix = "got "

// mirrored answers a message as a server of one tool, and reports whether it is a call.
func mirrored(message []byte, tool string) (reply string, call bool) {
	var m struct {
		ID     json.RawMessage
		Method string
	}
	if err := json.Unmarshal(message, &m); err != nil {
		panic(err)
	}
	result := ""
	switch m.Method {
	case "initialize":
		result = `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"mirror","version":"1"}}`
	case "tools/list":
		result = `{"tools":[{"name":"` + tool + `","inputSchema":{"type":"object"}}]}`
	case "tools/call":
		result = `{"content":[{"type":"text","text":"` + mirrorPrefix + base64.StdEncoding.EncodeToString(message) + `"}]}`
	default:
		if m.ID == nil {
			return "", false
		}
		return `{"jsonrpc":"2.0","id":` + string(m.ID) + `,"error":{"code":-32601,"message":"unknown method"}}`, false
	}
	return `{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":` + result + `}`, m.Method == "tools/call"
}

// passes sends params as they are and reports whether they reached the server; if so, what the rules were shown must be what
// it decodes, and if not, the agent must have been refused.
func (g gate) passes(t *testing.T, w *witness, params string) bool {
	t.Helper()
	m := g.said(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+params+`}`)
	shown, got := w.taken(), g.got()
	switch {
	case len(got) > 1:
		t.Fatalf("%s: one call of the agent's became %d", g.name, len(got))
	case len(got) == 1 && len(shown) == 0:
		t.Fatalf("%s: no rule was asked about %s", g.name, got[0])
	case len(got) == 1:
		for _, r := range shown {
			if err := sameCall(r, got[0]); err != nil {
				t.Errorf("%s: rules were shown %s %#v, the server was sent %s: %v", g.name, r.Action.ID, r.Args, got[0], err)
			}
		}
		return true
	}
	var r struct {
		IsError           bool
		StructuredContent struct{ Session string } // as the hypervisor's own tool answers
	}
	if m.Result != nil && (json.Unmarshal(m.Result, &r) != nil || !r.IsError && r.StructuredContent.Session == "") {
		t.Errorf("%s: nothing was sent, and the agent was told %s", g.name, m.Result)
	}
	return false
}

// sameCall returns how what rules were shown differs from what some decoder makes of what was sent.
func sameCall(shown policy.Request, sent []byte) error {
	var folding struct { // as a server in Go might well decode it
		Params struct {
			Name      string
			Arguments json.RawMessage
		}
	}
	var members struct {
		Params struct {
			Name      string         `json:"name"`
			Arguments map[string]any `json:"arguments"`
			Meta      map[string]any `json:"_meta"`
		} `json:"params"`
		Method string `json:"method"`
		ID     any    `json:"id"`
		RPC    string `json:"jsonrpc"`
	}
	if err := errors.Join(json.Unmarshal(sent, &folding), jsonv2.Unmarshal(sent, &members, jsonv2.RejectUnknownMembers(true))); err != nil {
		return err
	}
	var loose map[string]any
	if err := json.Unmarshal(folding.Params.Arguments, &loose); err != nil {
		return err
	}
	exact := json.NewDecoder(bytes.NewReader(folding.Params.Arguments))
	exact.UseNumber()
	var verbatim any
	if err := exact.Decode(&verbatim); err != nil {
		return err
	}
	switch {
	case folding.Params.Name != members.Params.Name || shown.Action.ID != "up."+folding.Params.Name:
		return fmt.Errorf("%q, %q", folding.Params.Name, members.Params.Name)
	case !reflect.DeepEqual(loose, floats(shown.Args)):
		return errors.New("encoding/json sees something else")
	case !reflect.DeepEqual(members.Params.Arguments, floats(shown.Args)):
		return errors.New("a strict decoder sees something else")
	case !reflect.DeepEqual(verbatim, spelled(shown.Args)):
		return errors.New("numbers are not what they were")
	}
	return nil
}

// floats is a decoded value as a decoder makes it that knows no number but a float.
func floats(v any) any {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	}
	return within(v, floats)
}

// spelled is a decoded value as a decoder makes it that leaves numbers as they are written.
func spelled(v any) any {
	switch v := v.(type) {
	case int64:
		return json.Number(strconv.FormatInt(v, 10))
	case uint64:
		return json.Number(strconv.FormatUint(v, 10))
	case float64:
		text, _ := jsonv2.Marshal(v) // a finite number: it cannot fail
		return json.Number(text)
	}
	return within(v, spelled)
}

// within returns a value with f done to each value in it.
func within(v any, f func(any) any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, element := range v {
			out[name] = f(element)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, element := range v {
			out[i] = f(element)
		}
		return out
	}
	return v
}

func TestWhatRulesAreShownIsWhatTheServerGets(t *testing.T) {
	w, ways := gates(t)
	for _, p := range params {
		for _, g := range ways {
			t.Run(p.name+", "+g.name, func(t *testing.T) {
				twice := strings.Contains(g.name, "new") && strings.Contains(p.text, "_meta")
				want := p.passes && !twice
				if got := g.passes(t, w, p.text); got != want {
					t.Errorf("reached the server: %v, want %v", got, want)
				}
			})
		}
	}
}

func FuzzWhatRulesAreShownIsWhatTheServerGets(f *testing.F) {
	for _, p := range params {
		f.Add([]byte(p.text))
	}
	w, ways := gates(f)
	f.Fuzz(func(t *testing.T, params []byte) {
		if len(params) > maxBodyBytes/2 {
			t.Skip("longer than a body may be")
		}
		for _, g := range ways {
			g.passes(t, w, string(params))
		}
	})
}
