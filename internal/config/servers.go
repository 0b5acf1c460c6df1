package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
)

// An MCPServer is an upstream, in the shape MCP clients use: a command to run, or a URL to call.
type MCPServer struct {
	Type    string // stdio, http (Streamable HTTP) or sse, never empty
	Command string
	Args    []string
	Env     map[string]string // added to nothing: the command gets no other environment
	Cwd     string
	URL     string
	Headers map[string]string // sent with every request
}

// LogValue returns the server without the values of its environment and headers, where the secrets are, and without its
// arguments and the URL's query, where they are too often.
func (s MCPServer) LogValue() slog.Value {
	at := s.URL
	if u, err := url.Parse(s.URL); err == nil {
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		at = u.String()
	}
	return slog.GroupValue(slog.String("type", s.Type), slog.String("command", s.Command), slog.String("url", at),
		slog.Any("env", slices.Sorted(maps.Keys(s.Env))), slog.Any("headers", slices.Sorted(maps.Keys(s.Headers))))
}

// ownName is the server that the hypervisor's own tools seem to come from.
const ownName = "hypervisor"

var (
	serverName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$`)
	headerName = regexp.MustCompile("^[a-zA-Z0-9!#$%&'*+.^_`|~-]+$") // RFC 9110 §5.6.2
)

// CheckServerName returns why no server can have a name; nil: one can.
func CheckServerName(name string) error {
	switch {
	case !serverName.MatchString(name):
		return errors.New("a server's name has letters, digits, _ and - only, at most 64, and starts with a letter or digit")
	case name == ownName:
		return errors.New("the name is taken by the hypervisor's own tools")
	}
	return nil
}

// mcpServers reads upstreams from the configuration or, with its reader, from a client's file.
func (l *loader) mcpServers(r *reader, it item) {
	r.Mapping(it, func(name string, it item) {
		if err := CheckServerName(name); err != nil {
			r.Fault(it, "%v", err)
		}
		if _, twice := l.MCPServers[name]; twice {
			r.Fault(it, "the server is in mcpServers and in mcpServersFile")
		}
		for _, other := range slices.Sorted(maps.Keys(l.MCPServers)) {
			if other != name && alike(other, name) {
				r.Fault(it, "the name looks like %q; a rule or a grant could be read as the other's", other)
			}
		}
		l.said.servers[name] = fmt.Sprintf("%s:%d:%d", r.File, it.At.Line, it.At.Column)
		l.MCPServers[name] = r.mcpServer(it.AtValue())
	})
}

// alike reports whether two names look the same to who reads them quickly: but for letter case, or for signs that many fonts draw
// alike.
func alike(a, b string) bool {
	drawn := strings.NewReplacer("I", "l", "1", "l", "O", "o", "0", "o", "-", "_")
	return strings.EqualFold(a, b) || strings.EqualFold(drawn.Replace(a), drawn.Replace(b))
}

func (r *reader) mcpServer(it item) (s MCPServer) {
	before := len(*r.Faults)
	values := func(to *map[string]string, name *regexp.Regexp) field {
		return func(it item) { *to = r.pairs(it, name) }
	}
	seen := r.Object(it, map[string]field{
		"type": func(it item) {
			set(&s.Type, it, func(it item) (string, bool) { return r.Word(it, "stdio", "http", "streamable-http", "sse") })
		},
		"command": func(it item) { set(&s.Command, it, r.private) },
		"args": func(it item) {
			r.List(it, func(_ int, e item) {
				arg, ok := r.Literal(e)
				if !ok {
					return
				}
				if arg, ok = r.expanded(e, arg); ok {
					s.Args = append(s.Args, arg)
				}
			})
		},
		"env":     values(&s.Env, regexp.MustCompile(`^[^=\x00]+$`)),
		"cwd":     func(it item) { set(&s.Cwd, it, r.private) },
		"url":     func(it item) { set(&s.URL, it, r.url) },
		"headers": values(&s.Headers, headerName),
	})
	if len(*r.Faults) > before {
		return s
	}
	foreign := []string{"command", "args", "env", "cwd"}
	if seen["command"] {
		foreign = []string{"url", "headers"}
	}
	foreign = slices.DeleteFunc(foreign, func(key string) bool { return !seen[key] })
	switch {
	case seen["command"] == seen["url"]:
		r.Fault(it, "wants either a command or a url")
	case len(foreign) > 0:
		r.Fault(it, "%s does not go with %s", foreign[0], map[bool]string{true: "a command", false: "a url"}[seen["command"]])
	case seen["type"] && seen["command"] != (s.Type == "stdio"):
		r.Fault(it, "type %s does not go with %s", s.Type, map[bool]string{true: "a command", false: "a url"}[seen["command"]])
	case seen["command"]:
		s.Type = "stdio"
	case s.Type != "sse":
		s.Type = "http"
	}
	return s
}

// pairs reads names and their values as texts.
func (r *reader) pairs(it item, name *regexp.Regexp) map[string]string {
	out := map[string]string{}
	r.Mapping(it, func(key string, v item) {
		if !name.MatchString(key) {
			r.Fault(v, "not a name that can be passed on")
			return
		}
		value, ok := r.Literal(v.AtValue())
		if ok {
			value, ok = r.expanded(v.AtValue(), value)
		}
		if ok && name == headerName && strings.ContainsFunc(value, unicode.IsControl) {
			r.Fault(v.AtValue(), "has a line break or a control character")
			return
		}
		out[key] = value
	})
	return out
}

func (r *reader) url(it item) (string, bool) {
	written, ok := r.Text(it)
	if !ok {
		return "", false
	}
	s, ok := r.expanded(it, written)
	if !ok {
		return "", false
	}
	if u, err := url.Parse(s); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		r.Fault(it, "want an http or https URL, got %q", document.Clip(written))
		return "", false
	}
	return s, true
}

// mcpServersFile reads the upstreams of an MCP client's own file. Whatever else that file says is the client's affair.
func (l *loader) mcpServersFile(it item) {
	name, ok := l.Text(it)
	if !ok {
		return
	}
	if l.readFile == nil {
		l.Fault(it, "only a configuration that is a file itself can name another")
		return
	}
	name = l.beside(name)
	b, err := l.readFile(name)
	if err != nil {
		l.Fault(it, "%v", err)
		return
	}
	l.late = append([]func(){func() { // before the checks of who is in mcpServers
		r := newReader(name, l.Faults)
		r.environ = l.environ
		root, ok := r.Parse(b)
		if !ok {
			return
		}
		if seen := r.Mapping(root.AtValue(), func(key string, it item) {
			if key == "mcpServers" {
				l.mcpServers(r, it)
			}
		}); !seen["mcpServers"] {
			r.FaultAt(1, 1, "there is no mcpServers in it")
		}
	}}, l.late...)
}

// servers reads what the operator says of upstreams and their tools.
func (l *loader) servers(it item) {
	l.Mapping(it, func(name string, it item) {
		l.late = append(l.late, func() {
			if names := l.names(); !slices.Contains(names, name) {
				otherwise := ", nor is any other server"
				if len(names) > 0 {
					otherwise = " (there are " + document.List(names) + ")"
				}
				l.Fault(it, "there is no %q in mcpServers%s", document.Clip(name), document.Meant(name, names, otherwise))
			}
		})
		var s Server
		places := map[string]item{}
		l.Object(it.AtValue(), map[string]field{
			"trust_annotations": func(it item) { set(&s.TrustAnnotations, it, l.Boolean) },
			"shared":            func(it item) { set(&s.Shared, it, l.Boolean) },
			"sampling":          func(it item) { setPointer(&s.Sampling, it, l.Boolean) },
			"roots":             func(it item) { setPointer(&s.Roots, it, l.Boolean) },
			"oauth":             func(it item) { s.OAuth = l.oauth(name, it) },
			"pack":              func(it item) { set(&s.Pack, it, l.pack) },
			"actions":           func(it item) { s.Actions = l.actions(name, it, places) },
		})
		l.consistent(name, s.claims, places)
		l.Servers[name] = s
	})
}

// actions reads what is said of a server's tools, and notes where.
func (l *loader) actions(server string, it item, places map[string]item) map[string]action.Claim {
	claims := map[string]action.Claim{}
	l.Mapping(it, func(tool string, it item) {
		places[tool] = it
		claims[tool] = l.claim(it.AtValue())
		l.said.actions[server+"."+tool] = fmt.Sprintf("%s:%d:%d", l.File, it.At.Line, it.At.Column)
	})
	return claims
}

// consistent notes where each tool's own words, those of "*" and those of the pack contradict each other.
func (l *loader) consistent(server string, claims func(tool string) []action.Claim, places map[string]item) {
	if !serverName.MatchString(server) {
		return // which is a fault of its own
	}
	for tool, it := range places {
		id := server + "." + tool
		if tool == AnyTool {
			id = server + ".any"
		}
		d := action.Resolve(id, claims(tool)...)
		if err := d.Validate(); err != nil {
			l.Fault(it, "%v", err)
			continue
		}
		l.consistentCalls(d, claims, it)
	}
}

// consistentCalls notes where the tools that a descriptor calls are not said to be what they must be.
func (l *loader) consistentCalls(d action.Descriptor, claims func(tool string) []action.Claim, it item) {
	reads := func(tool string) bool { return action.Resolve(d.ID, claims(tool)...).ReadOnly }
	if d.Image != nil && !reads(d.Image.Tool) {
		l.Fault(it, "image calls %s, which is not said to be read_only: it is called in the hypervisor's name", d.Image.Tool)
	}
	if d.Probe != nil && !reads(d.Probe.Tool) {
		l.Fault(it, "probe calls %s, which is not said to be read_only: it is called in the hypervisor's name", d.Probe.Tool)
	}
	for _, c := range slices.Concat(d.Undo, d.UndoAbsent) {
		if reads(c.Tool) {
			l.Fault(it, "an undo calls %s, which is said to be read_only and so takes nothing back", c.Tool)
		}
	}
}
