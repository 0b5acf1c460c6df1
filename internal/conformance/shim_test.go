package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// A shim stands between the suite and the gateway: the suite knows its tools and prompts by their own names, the gateway shows
// them as server__name.
type shim struct {
	prefix string // with the underscores
	at     string // host:port of the gateway
	own    string // host:port of the shim
}

// newShim returns the address of a shim before the gateway at a URL.
func newShim(t *testing.T, gateway, server string) string {
	t.Helper()
	u, err := url.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	s := &shim{prefix: server + "__", at: u.Host}
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:        s.request,
		ModifyResponse: s.response,
		FlushInterval:  -1,
		Transport:      &http.Transport{DisableCompression: true},
	})
	s.own = front.Listener.Addr().String()
	t.Cleanup(front.Close)
	t.Cleanup(front.CloseClientConnections)
	return front.URL + u.Path
}

func port(hostport string) string { return hostport[strings.LastIndex(hostport, ":"):] }

// request renames what a request names.
func (s *shim) request(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", s.at
	if name, ok := strings.CutSuffix(r.In.Host, port(s.own)); ok {
		r.Out.Host = name + port(s.at)
	}
	if origin, ok := strings.CutSuffix(r.In.Header.Get("Origin"), port(s.own)); ok {
		r.Out.Header.Set("Origin", origin+port(s.at))
	}
	method := r.In.Header.Get("Mcp-Method")
	if name := r.In.Header.Get("Mcp-Name"); name != "" && (method == "tools/call" || method == "prompts/get") {
		r.Out.Header.Set("Mcp-Name", s.prefix+name)
	}
	if r.In.Method != http.MethodPost {
		return
	}
	body, err := io.ReadAll(r.In.Body)
	if err == nil {
		body = s.named(body)
	}
	r.Out.Body, r.Out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// named returns a message with the prefix before the name of a tool or prompt; any other, and what is no message, as it came.
func (s *shim) named(message []byte) []byte {
	var m struct {
		Method string `json:"method"`
	}
	if json.Unmarshal(message, &m) != nil {
		return message
	}
	put := func(name string) (string, bool) { return s.prefix + name, name != "" }
	switch m.Method {
	case "tools/call", "prompts/get":
		return within(message, "params", func(params []byte) []byte { return rename(params, put) })
	case "completion/complete":
		return within(message, "params", func(params []byte) []byte {
			return within(params, "ref", func(ref []byte) []byte { return rename(ref, put) })
		})
	}
	return message
}

// plain returns a message with the prefix taken off the names of the tools and prompts that it lists.
func (s *shim) plain(message []byte) []byte {
	take := func(name string) (string, bool) { return strings.CutPrefix(name, s.prefix) }
	return within(message, "result", func(result []byte) []byte {
		for _, list := range []string{"tools", "prompts"} {
			result = within(result, list, func(items []byte) []byte {
				var all []json.RawMessage
				if json.Unmarshal(items, &all) != nil {
					return items
				}
				for i := range all {
					all[i] = rename(all[i], take)
				}
				return encode(all)
			})
		}
		return result
	})
}

// within returns an object with one member changed, or what it is given if that is no object with such a member.
func within(object []byte, member string, change func([]byte) []byte) []byte {
	var parts map[string]json.RawMessage
	if json.Unmarshal(object, &parts) != nil || parts[member] == nil {
		return object
	}
	changed := change(parts[member])
	if bytes.Equal(changed, parts[member]) {
		return object
	}
	parts[member] = changed
	return encode(parts)
}

// rename changes an object's name.
func rename(object []byte, to func(string) (string, bool)) []byte {
	return within(object, "name", func(value []byte) []byte {
		var name string
		if json.Unmarshal(value, &name) != nil {
			return value
		}
		other, ok := to(name)
		if !ok {
			return value
		}
		return encode(other)
	})
}

// encode writes what came from JSON.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("conformance: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// response renames what an answer lists: a body of JSON whole, a stream of events line by line as they come.
func (s *shim) response(r *http.Response) error {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	switch kind {
	case "application/json":
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			return err
		}
		body = s.plain(body)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Del("Content-Length")
	case "text/event-stream":
		r.Body = &lines{s: s, from: r.Body, r: bufio.NewReader(r.Body)}
	}
	return nil
}

// lines are an event stream with its data renamed.
type lines struct {
	s    *shim
	from io.Closer
	r    *bufio.Reader
	left []byte
}

func (l *lines) Read(p []byte) (int, error) {
	if len(l.left) == 0 {
		line, err := l.r.ReadBytes('\n')
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			text := bytes.TrimRight(data, "\r\n")
			line = append(append([]byte("data: "), l.s.plain(text)...), data[len(text):]...)
		}
		if l.left = line; len(line) == 0 {
			return 0, err
		}
	}
	n := copy(p, l.left)
	l.left = l.left[n:]
	return n, nil
}

func (l *lines) Close() error { return l.from.Close() }

func TestTheShimChangesNamesAndNothingElse(t *testing.T) {
	s := &shim{prefix: "up__"}
	for _, c := range []struct{ what, in, want string }{
		{"a call", `{"id":1,"method":"tools/call","params":{"name":"x"}}`, `{"id":1,"method":"tools/call","params":{"name":"up__x"}}`},
		{"a prompt", `{"method":"prompts/get","params":{"name":"x"}}`, `{"method":"prompts/get","params":{"name":"up__x"}}`},
		{"a completion of a prompt", `{"method":"completion/complete","params":{"ref":{"name":"x"}}}`, `{"method":"completion/complete","params":{"ref":{"name":"up__x"}}}`},
		{"a call of nothing", `{"method":"tools/call", "params":{"name":""}}`, `{"method":"tools/call", "params":{"name":""}}`},
		{"a call of a number", `{"method":"tools/call", "params":{"name":1}}`, `{"method":"tools/call", "params":{"name":1}}`},
		{"a resource", `{ "method":"resources/read","params":{"uri":"x","name":"y"}}`, `{ "method":"resources/read","params":{"uri":"x","name":"y"}}`},
		{"no message", `[{"method":"tools/call","params":{"name":"x"}}]`, `[{"method":"tools/call","params":{"name":"x"}}]`},
		{"no JSON", `{"method":"tools/call"`, `{"method":"tools/call"`},
	} {
		if got := string(s.named([]byte(c.in))); got != c.want {
			t.Errorf("%s: %s", c.what, got)
		}
	}
	for _, c := range []struct{ what, in, want string }{
		{"tools", `{"id":1,"result":{"tools":[{"name":"up__x"},{"name":"hypervisor__status"}]}}`, `{"id":1,"result":{"tools":[{"name":"x"},{"name":"hypervisor__status"}]}}`},
		{"prompts", `{"result":{"prompts":[{"name":"up__x"}]}}`, `{"result":{"prompts":[{"name":"x"}]}}`},
		{"another result", `{"result":{"content":[ {"name":"up__x"}]}}`, `{"result":{"content":[ {"name":"up__x"}]}}`},
		{"an error", `{"error":{"message":"up__x" }}`, `{"error":{"message":"up__x" }}`},
	} {
		if got := string(s.plain([]byte(c.in))); got != c.want {
			t.Errorf("%s: %s", c.what, got)
		}
	}
}
