package config

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/internal/address"
	"github.com/agenthypervisor/hypervisor/internal/cel"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// What a configuration that does not say otherwise has.
const (
	DefaultListen = "127.0.0.1:7700"
	DefaultData   = "./hypervisor-data"
)

// A Config is what hypervisor.yaml says. It is not changed after Parse and may be read by anybody.
type Config struct {
	Listen         string   // host:port
	Hosts          []string // other names by which clients call the listener: host or host:port, in lower case
	Data           string   // the data directory, as written: relative to the working directory
	Session        Session
	MCPServers     map[string]MCPServer // the upstreams, by name
	Servers        map[string]Server    // what the operator says of them, by the same names
	Agents         []Agent
	Roles          Roles
	AnonymousAgent *Agent // whoever comes without a token; nil: nobody may
	Services       Services
	Addresses      *address.Book // that may be called; nil: none
	Policies       []cel.Rule
	Rules          *cel.Rules // Policies compiled, never nil
	Digest         audit.Hash // SHA-256 of the text, and of that of the file it names

	said said // where, for Report
}

// An Agent is an agent the operator knows.
type Agent struct {
	DID   policy.DID
	Sigma *ring.Sigma // its standing; nil: not said
}

// Roles names who is not an agent, by DID or OIDC subject.
type Roles struct {
	Operator, Approver, Auditor, Service []string
}

// A Server is what the operator says of an upstream.
type Server struct {
	TrustAnnotations bool                    // readOnlyHint and its like may be believed
	OAuth            *OAuth                  // how the hypervisor gets a token for it; nil: it needs none
	Shared           bool                    // one connection for all agents and sessions
	Sampling         *bool                   // during a call it may ask the model of the client that makes it; nil: it may
	Roots            *bool                   // and what files that client works on; nil: in calls of 2026-07-28 only
	Pack             string                  // the bundled description that holds for it, a name of package packs; empty: none
	Actions          map[string]action.Claim // by tool; "*": every tool
}

// AnyTool is the name under which a Server's Actions speak of every tool.
const AnyTool = "*"

// Claims returns what the operator says of a tool of a server, the strongest first, as action.Resolve wants it: of the tool
// itself, then of every tool of that server, then what the server's pack says of the tool.
func (c *Config) Claims(server, tool string) []action.Claim { return c.Servers[server].claims(tool) }

func (s Server) claims(tool string) []action.Claim {
	var claims []action.Claim
	if claim, ok := s.Actions[tool]; ok && tool != AnyTool {
		claims = append(claims, claim)
	}
	if claim, ok := s.Actions[AnyTool]; ok {
		claims = append(claims, claim)
	}
	if claim, ok := bundled()[s.Pack][tool]; ok {
		claims = append(claims, claim)
	}
	return claims
}

// Options say what a configuration is read for. The nil Options are those of a daemon.
type Options struct {
	Wrapped string // a server that is given on the command line and need not be in mcpServers; empty: none
	Listen  string // the address that will be listened on instead of the file's; empty: the file's
	// Environ looks a variable up that the file refers to as ${NAME}. Nil: such references stay as they are.
	Environ func(name string) (value string, set bool)
}

// Load reads the configuration at path, and the mcpServersFile it may name, relative to its directory. It returns document.Faults if
// anything is wrong with what they say, and an error of package os if one cannot be read.
func Load(path string, opts *Options) (*Config, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return parse(path, b, opts, readBounded)
}

// readBounded reads a file, but no more of it than shows that it is too large.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, document.MaxBytes+1))
}

// Parse reads a configuration from b; name stands for the file in Faults. No bytes are the defaults. It opens nothing, so
// mcpServersFile is a fault. It returns Faults, and no other error.
func Parse(name string, b []byte, opts *Options) (*Config, error) { return parse(name, b, opts, nil) }

// said is where things were said, as FILE:LINE:COL. The key of an action is server.tool.
type said struct {
	file              string
	actions, policies map[string]string
	servers           map[string]string
}

// At returns where a server of MCPServers is named, as FILE:LINE:COL.
func (c *Config) At(server string) string { return c.said.servers[server] }

// A loader fills a Config from a file.
type loader struct {
	*reader
	*Config
	opts     Options
	readFile func(path string) ([]byte, error) // nil: none may be read; what it reads is of the digest
	// readSecret is readFile for what no digest is made of.
	readSecret func(path string) ([]byte, error)
	late       []func() // checks that need the whole file
}

func parse(name string, b []byte, opts *Options, readFile func(string) ([]byte, error)) (*Config, error) {
	var faults document.Faults
	l := &loader{reader: newReader(name, &faults), readFile: readFile, readSecret: readFile, Config: &Config{
		Listen: DefaultListen, Data: DefaultData,
		MCPServers: map[string]MCPServer{}, Servers: map[string]Server{}, Rules: new(cel.Rules),
		said: said{name, map[string]string{}, map[string]string{}, map[string]string{}},
	}}
	if opts != nil {
		l.opts = *opts
	}
	l.environ = l.opts.Environ
	text := sha256.New()
	text.Write(b)
	if readFile != nil {
		l.readFile = func(path string) ([]byte, error) {
			b, err := readFile(path)
			text.Write(b)
			return b, err
		}
	}
	if root, ok := l.Parse(b); ok {
		l.top(root)
		for _, check := range l.late {
			check()
		}
	}
	if len(faults) > 0 {
		faults.Sort(name)
		return nil, faults
	}
	text.Sum(l.Digest[:0])
	return l.Config, nil
}

// top reads the whole file.
func (l *loader) top(root item) {
	l.Object(root.AtValue(), map[string]field{
		"listen":          l.listen,
		"hosts":           func(it item) { l.Hosts = l.Texts(it, l.hostName) },
		"data":            func(it item) { set(&l.Data, it, l.Text) },
		"session":         l.session,
		"mcpServers":      func(it item) { l.mcpServers(l.reader, it) },
		"mcpServersFile":  l.mcpServersFile,
		"servers":         l.servers,
		"agents":          l.agents,
		"roles":           l.roles,
		"anonymous_agent": l.anonymous,
		"policies":        l.policies,
		"services":        l.services,
		"addresses":       l.addresses,
	})
}

// set reads a value into *to, which keeps what it has where the value is at fault.
func set[T any](to *T, it item, read func(item) (T, bool)) {
	if v, ok := read(it); ok {
		*to = v
	}
}

// setPointer is set for a value whose absence means something.
func setPointer[T any](to **T, it item, read func(item) (T, bool)) {
	if v, ok := read(it); ok {
		*to = &v
	}
}

func (l *loader) listen(it item) {
	text, ok := l.Text(it)
	if !ok {
		return
	}
	if err := CheckListen(text); err != nil {
		l.Fault(it, "%v", err)
		return
	}
	l.Listen = text
}

// CheckListen returns what is wrong with an address to listen on; nil: nothing is.
func CheckListen(text string) error {
	_, port, err := net.SplitHostPort(text)
	if n, bad := parsePort(port); err != nil || bad || n > 65535 {
		return fmt.Errorf("want host:port such as %s, got %q", DefaultListen, document.Clip(text))
	}
	return nil
}

// hostName reads a host or host:port, without a star.
func (l *loader) hostName(it item) (string, bool) {
	s, ok := l.host(it)
	if ok && strings.Contains(s, "*") {
		l.Fault(it, "a name is said in full, got %q", document.Clip(s))
		return "", false
	}
	return s, ok
}

// parsePort reads a port in digits; a service's name depends on the machine.
func parsePort(text string) (port int, bad bool) {
	for _, c := range []byte(text) {
		if c < '0' || c > '9' || port > 65535 {
			return 0, true
		}
		port = port*10 + int(c-'0')
	}
	return port, text == ""
}

// loopback reports whether only this machine can reach an address.
func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (l *loader) sigma(it item) (ring.Sigma, bool) {
	m, ok := l.decimal(it)
	return ring.Sigma(m), ok
}

func (l *loader) agent(it item) (a Agent, ok bool) {
	before := len(*l.Faults)
	seen := l.Object(it, map[string]field{
		"did":   func(it item) { set(&a.DID, it, l.did) },
		"sigma": func(it item) { setPointer(&a.Sigma, it, l.sigma) },
	})
	if len(*l.Faults) == before && !seen["did"] {
		l.Fault(it, "did is missing")
	}
	return a, len(*l.Faults) == before
}

func (l *loader) agents(it item) {
	l.List(it, func(_ int, e item) {
		a, ok := l.agent(e)
		if ok && slices.ContainsFunc(l.Agents, func(b Agent) bool { return a.DID == b.DID }) {
			l.Fault(e, "%s is listed twice", a.DID)
			return
		}
		if ok {
			l.Agents = append(l.Agents, a)
		}
	})
}

func (l *loader) anonymous(it item) {
	setPointer(&l.AnonymousAgent, it, l.agent)
	l.late = append(l.late, func() {
		listen := l.Listen
		if l.opts.Listen != "" {
			listen = l.opts.Listen
		}
		if l.AnonymousAgent != nil && !loopback(listen) {
			l.Fault(it, "whoever reaches %s would be %s; listen on a loopback address such as %s, or remove it", listen, l.AnonymousAgent.DID, DefaultListen)
		}
	})
}

// subject reads a DID or an OIDC subject, which is any word (OpenID Connect Core §2: at most 255 ASCII characters).
func (l *loader) subject(it item) (string, bool) {
	s, ok := l.Text(it)
	switch {
	case !ok:
	case len(s) >= 4 && s[:4] == "did:":
		did, ok := l.did(it)
		return string(did), ok
	case len(s) > 255:
		l.Fault(it, "longer than 255 bytes")
		return "", false
	}
	return s, ok
}

func (l *loader) roles(it item) {
	to := map[string]*[]string{"operator": &l.Roles.Operator, "approver": &l.Roles.Approver, "auditor": &l.Roles.Auditor, "service": &l.Roles.Service}
	fields := map[string]field{}
	for role, subjects := range to {
		fields[role] = func(it item) { *subjects = l.Texts(it, l.subject) }
	}
	l.Object(it, fields)
}

// names returns the servers that can be spoken of.
func (l *loader) names() []string {
	names := slices.Collect(maps.Keys(l.MCPServers))
	if l.opts.Wrapped != "" {
		names = append(names, l.opts.Wrapped)
	}
	return names
}

// beside returns a path as seen from the configuration's directory.
func (l *loader) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(l.File), path)
}
