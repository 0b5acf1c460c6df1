package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/internal/gateway"
	"github.com/agenthypervisor/hypervisor/internal/reputation"
	"github.com/agenthypervisor/hypervisor/internal/service"
	"github.com/agenthypervisor/hypervisor/internal/watcher"
)

// reload.go: what a configuration is to the daemon, at its start and when it is read again.

// load reads the configuration for what the command line says. Faults are printed, a line each.
func (d *daemon) load() (*config.Config, error) {
	if d.listen != "" {
		if err := config.CheckListen(d.listen); err != nil {
			return nil, usage("--listen: %w", err)
		}
	}
	opts := &config.Options{Listen: d.listen, Environ: os.LookupEnv}
	var cfg *config.Config
	var err error
	if d.file == "" {
		cfg, err = config.Parse("(none)", nil, opts)
	} else {
		cfg, err = config.Load(d.file, opts)
	}
	var faults document.Faults
	switch {
	case errors.As(err, &faults):
		for _, f := range faults {
			fmt.Fprintln(d.stderr, clean(f.Error()))
		}
		return nil, usage("%w", silent{err})
	case err != nil:
		return nil, unopened(err)
	}
	if d.listen != "" {
		cfg.Listen = d.listen
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.MCPServers)) {
		if cfg.MCPServers[name].Type == "sse" {
			return nil, usage("%s: mcpServers.%s: type sse is not spoken here; say the server's Streamable HTTP address", cfg.At(name), name)
		}
	}
	return cfg, nil
}

// report says whether a configuration can be served: that it is sound is known, that its commands are there is looked up.
func (d *daemon) report(cfg *config.Config) error {
	missing := false
	for _, name := range slices.Sorted(maps.Keys(cfg.MCPServers)) {
		s := cfg.MCPServers[name]
		if s.Command == "" {
			continue
		}
		if err := findCommand(s); err != nil {
			missing = true
			fmt.Fprintln(d.stderr, clean(fmt.Sprintf("%s: mcpServers.%s: %v", cfg.At(name), name, err)))
		}
	}
	if missing {
		return usage("%w", silent{errors.New("a command is missing")})
	}
	if d.g.json {
		return d.g.printJSON(map[string]any{"ok": true, "servers": len(cfg.MCPServers), "listen": cfg.Listen})
	}
	d.g.printf("sound: %s, listens on %s\n", count(len(cfg.MCPServers), "server", "servers"), cfg.Listen)
	return nil
}

// findCommand returns why a server's command cannot be run.
func findCommand(s config.MCPServer) error {
	if s.Cwd != "" {
		if info, err := os.Stat(s.Cwd); err != nil || !info.IsDir() {
			return fmt.Errorf("cwd %s is no directory", s.Cwd)
		}
	}
	command := s.Command
	if strings.ContainsRune(command, filepath.Separator) && !filepath.IsAbs(command) && s.Cwd != "" {
		command = filepath.Join(s.Cwd, command)
	}
	if _, err := exec.LookPath(command); err != nil {
		return fmt.Errorf("command %q is not found; name it with its path, or install it", s.Command)
	}
	return nil
}

// specs are the servers as the gateway wants them. A stdio server gets what a program needs to find its way, what its own env
// says, and nothing else of this process's environment.
func specs(cfg *config.Config) []gateway.ServerSpec {
	var out []gateway.ServerSpec
	for _, name := range slices.Sorted(maps.Keys(cfg.MCPServers)) {
		s, said := cfg.MCPServers[name], cfg.Servers[name]
		spec := gateway.ServerSpec{Name: name, Shared: said.Shared, TrustAnnotations: said.TrustAnnotations, Questions: questions(said)}
		if s.URL != "" {
			spec.Endpoint = &gateway.Endpoint{URL: s.URL, Headers: s.Headers}
			if o := said.OAuth; o != nil {
				spec.Endpoint.OAuth = &gateway.ClientCredentials{TokenURL: o.TokenURL, ID: o.ClientID, Secret: o.ClientSecret, Scopes: o.Scopes, Params: o.Params}
			}
		} else {
			spec.Command = &gateway.Command{Path: s.Command, Args: s.Args, Env: gateway.BasicEnvironment(os.Environ(), s.Env), Dir: s.Cwd}
		}
		out = append(out, spec)
	}
	return out
}

// questions are what a server may ask during a call, as the gateway wants it.
func questions(said config.Server) gateway.Questions {
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	return gateway.Questions{NoModel: is(said.Sampling, false), NoRoots: is(said.Roots, false), AllRoots: is(said.Roots, true)}
}

// enforce puts a configuration in force. What can be refused is asked first, so that a refusal leaves all as it was; a store that
// fails midway is reported, and the same configuration can be sent again.
func (d *daemon) enforce(ctx context.Context, cfg *config.Config) error {
	if err := d.hub.SetServers(specs(cfg), cfg.Claims); err != nil {
		return usage("%w", err)
	}
	if _, err := d.hv.SetRules(ctx, configOperator, cfg.Rules, cfg.Rules.Version()); err != nil {
		return err
	}
	agents := cfg.Agents
	if cfg.AnonymousAgent != nil {
		agents = append(slices.Clone(agents), *cfg.AnonymousAgent)
	}
	for _, a := range agents {
		if a.Sigma == nil {
			continue
		}
		if decision, err := d.hv.SetSigma(ctx, configOperator, a.DID, *a.Sigma); err != nil || !decision.Allowed {
			return errors.Join(err, fmt.Errorf("σ of %s: %s", a.DID, decision.Reason))
		}
	}
	rates, err := ratingOf(cfg)
	if err != nil {
		return usage("%w", err)
	}
	rates.set(d.hv)
	d.hv.SetAddresses(cfg.Addresses)
	if _, err := d.hv.NoteConfig(ctx, configOperator, cfg.Digest); err != nil {
		return err
	}
	d.cfg.Store(cfg)
	if cfg.AnonymousAgent == nil {
		d.door.SetAnonymous(nil)
	} else {
		d.door.SetAnonymous(&auth.Anonymous{Agent: cfg.AnonymousAgent.DID, Session: d.defaults()})
	}
	return nil
}

// A rating is what a configuration has asked about agents.
type rating struct {
	asked *reputation.Service // nil: none is
	told  bool
	drift *watcher.Service // nil: none is
}

// ratingOf returns the services that a configuration names, which nobody asks yet.
func ratingOf(cfg *config.Config) (r rating, err error) {
	if c := cfg.Services.Reputation; c != nil {
		headers, err := headersOf("reputation", c.Service)
		if err != nil {
			return rating{}, err
		}
		if r.asked, err = reputation.New(service.Options{URL: c.URL, Headers: headers, Timeout: c.Timeout, Keep: c.Cache}); err != nil {
			return rating{}, err
		}
		r.told = !c.NoReports
	}
	if c := cfg.Services.Drift; c != nil {
		headers, err := headersOf("drift", *c)
		if err != nil {
			return rating{}, err
		}
		if r.drift, err = watcher.New(service.Options{URL: c.URL, Headers: headers, Timeout: c.Timeout, Keep: c.Cache}); err != nil {
			return rating{}, err
		}
	}
	return r, nil
}

// headersOf returns what is sent with every question to a service, its token from the environment included.
func headersOf(name string, c config.Service) (map[string]string, error) {
	if c.TokenEnv == "" {
		return c.Headers, nil
	}
	token := os.Getenv(c.TokenEnv)
	if token == "" {
		return nil, fmt.Errorf("services.%s.token_env: the environment has no %s; set it to the service's token", name, c.TokenEnv)
	}
	headers := map[string]string{"Authorization": "Bearer " + token}
	maps.Copy(headers, c.Headers)
	return headers, nil
}

// set has the services asked, and told, from now on; the ones before no more.
func (r rating) set(hv *hypervisor.Hypervisor) {
	var asks hypervisor.Reputation
	var tells hypervisor.Reporter
	var watches hypervisor.DriftSource
	if r.asked != nil {
		asks = r.asked
	}
	if r.asked != nil && r.told {
		tells = r.asked
	}
	if r.drift != nil {
		watches = r.drift
	}
	hv.SetReputation(asks)
	hv.SetReporter(tells)
	hv.SetDriftSource(watches)
}

// followSignals reads the configuration again at each SIGHUP, until ctx ends.
func (d *daemon) followSignals(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.reload:
		}
		log := d.hv.Logger()
		cfg, err := d.load()
		if err == nil {
			err = d.restartless(cfg)
		}
		if err == nil {
			err = d.enforce(ctx, cfg)
		}
		if err != nil {
			log.Error("the configuration is not taken over; the old one stays", "file", d.file, "error", err)
			continue
		}
		log.Info("the configuration is in force", "file", d.file, "policies", cfg.Rules.Version())
	}
}

// restartless refuses a configuration that another process would have to be started for.
func (d *daemon) restartless(cfg *config.Config) error {
	old := d.cfg.Load()
	var other []string
	for name, changed := range map[string]bool{
		"listen": cfg.Listen != old.Listen, "data": cfg.Data != old.Data && d.g.data == "",
		"hosts": !slices.Equal(cfg.Hosts, old.Hosts), "roles.operator": !slices.Equal(operators(cfg), operators(old)),
	} {
		if changed {
			other = append(other, name)
		}
	}
	if len(other) > 0 {
		slices.Sort(other)
		return fmt.Errorf("%s changed, which needs a restart", strings.Join(other, ", "))
	}
	return nil
}

// A greeting tells how to come to the daemon. It holds no token.
type greeting struct {
	Listen    string `json:"listen"`
	MCP       string `json:"mcp"`
	API       string `json:"api"`
	Data      string `json:"data"`
	TokenFile string `json:"token_file"`
	First     bool   `json:"first"` // the first start on this data directory
	Servers   int    `json:"servers"`
}

func (h greeting) print(g *globals, loopback bool) {
	base := "http://" + h.Listen
	h.MCP, h.API = base+"/mcp", base+"/v1"
	if g.json {
		_ = g.printJSON(h) // who does not read it does not need it
		return
	}
	g.printf("hypervisor serves %s at %s; data in %s\n", count(h.Servers, "server", "servers"), h.MCP, h.Data)
	if !loopback {
		g.printf("It is reached from other machines, in plain HTTP: put TLS before it.\n")
	}
	if !h.First {
		return
	}
	at := " --data " + h.Data
	g.printf(`
The operator's token is in %[1]s. To let an agent in:
  hypervisor session create --name dev%[2]s
  hypervisor agent register did:mesh:ann --sigma 0.80%[2]s
  hypervisor agent token did:mesh:ann --session dev%[2]s
and give its MCP client the address %[3]s with the header "Authorization: Bearer TOKEN".
`, h.TokenFile, at, h.MCP)
}
