package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/config"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
)

func newSagaCommand(g *globals) *cobra.Command {
	return group("saga", "Several actions that end either all done or undone", "  hypervisor saga validate release.yaml\n  hypervisor saga run release.yaml --session dev",
		sagaValidate(g), sagaRun(g), sagaList(g), sagaShow(g), sagaResolve(g), sagaInvalidate(g), sagaCancel(g))
}

// A sagaFile is what `saga validate --json` says of one file.
type sagaFile struct {
	File   string      `json:"file"`
	OK     bool        `json:"ok"`
	Saga   string      `json:"saga,omitempty"`
	Steps  int         `json:"steps,omitempty"`
	Worst  []sagaWorst `json:"worst,omitempty"` // with a configuration: what each agent needs at the most
	Faults []sagaFault `json:"faults,omitempty"`
}

type sagaWorst struct {
	Agent policy.DID `json:"agent"`
	Step  string     `json:"step"`
	Needs ring.Ring  `json:"required_ring"`
	Has   ring.Ring  `json:"ring"` // by the configuration's σ
}

type sagaFault struct {
	Line int    `json:"line"`
	Col  int    `json:"col"`
	What string `json:"what"`
}

func sagaValidate(g *globals) *cobra.Command {
	var configFile string
	cmd := &cobra.Command{
		Use: "validate FILE|FOLDER…", Short: "Check definitions of sagas", Args: cobra.MinimumNArgs(1),
		Long: `Check definitions of sagas: every fault is printed as FILE:LINE:COL: what, and then the exit code is 1.
A file that ends in .json is read as JSON, any other as YAML; of a folder every .yaml, .yml and .json is read. It needs no hypervisor.
With --config the agents and servers must be that configuration's, and it is said which ring each agent needs at the worst.`,
		Example: "  hypervisor saga validate release.yaml\n  hypervisor saga validate sagas/ --config hypervisor.yaml",
		RunE: func(_ *cobra.Command, args []string) error {
			var cfg *config.Config
			if configFile != "" {
				var err error
				if cfg, err = config.Load(configFile, nil); err != nil {
					return g.configFault(err)
				}
			}
			files, err := sagaFiles(args)
			if err != nil {
				return unopened(err)
			}
			return g.validateSagas(files, cfg)
		},
	}
	cmd.Flags().StringVarP(&configFile, "config", "c", "", "configuration whose agents and servers there are")
	return cmd
}

// sagaFiles returns the files that are meant: of a folder those that can be definitions.
func sagaFiles(args []string) (files []string, err error) {
	for _, arg := range args {
		entries, err := os.ReadDir(arg)
		if err != nil {
			files = append(files, arg) // no folder; reading it says why if it is no file either
			continue
		}
		before := len(files)
		for _, e := range entries {
			if kind := filepath.Ext(e.Name()); !e.IsDir() && (kind == ".yaml" || kind == ".yml" || kind == ".json") {
				files = append(files, filepath.Join(arg, e.Name()))
			}
		}
		if len(files) == before {
			return nil, fmt.Errorf("there is no .yaml, .yml or .json in %s", arg)
		}
	}
	return files, nil
}

func (g *globals) validateSagas(files []string, cfg *config.Config) error {
	out := make([]sagaFile, len(files))
	bad := 0
	for i, file := range files {
		f, err := readSaga(file, cfg)
		if err != nil {
			return unopened(err)
		}
		if !f.OK {
			bad++
		}
		out[i] = f
	}
	if g.json {
		if err := g.printJSON(map[string]any{"ok": bad == 0, "files": out}); err != nil {
			return err
		}
	} else {
		for _, f := range out {
			g.printSagaFile(f)
		}
	}
	if bad > 0 {
		return fmt.Errorf("%s at fault", count(bad, "definition is", "definitions are"))
	}
	return nil
}

func readSaga(file string, cfg *config.Config) (sagaFile, error) {
	out := sagaFile{File: file}
	b, err := readDefinition(file)
	if err != nil {
		return out, err
	}
	var known saga.Known
	if cfg != nil {
		known = configKnows(cfg)
	}
	parse := saga.ParseYAML
	if strings.HasSuffix(file, ".json") {
		parse = saga.ParseJSON
	}
	d, err := parse(file, b, known)
	var faults document.Faults
	if errors.As(err, &faults) {
		for _, f := range faults {
			out.Faults = append(out.Faults, sagaFault{f.Line, f.Col, f.What})
		}
		return out, nil
	}
	out.OK, out.Saga, out.Steps = true, d.Name, len(d.Steps)
	if cfg != nil {
		for _, w := range d.WorstCase(func(s *saga.Step) ring.Ring { return stepRing(cfg, s) }) {
			out.Worst = append(out.Worst, sagaWorst{w.Agent, w.Step, w.Ring, configuredRing(cfg, w.Agent)})
		}
	}
	return out, nil
}

// readDefinition reads a file, but no more of it than shows that it is too large.
func readDefinition(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: file, Err: errors.New("is a folder that cannot be listed")}
	}
	return io.ReadAll(io.LimitReader(f, document.MaxBytes+1))
}

func configKnows(cfg *config.Config) (known saga.Known) {
	known.Agents = make([]policy.DID, 0, len(cfg.Agents)+1)
	for _, a := range cfg.Agents {
		known.Agents = append(known.Agents, a.DID)
	}
	if cfg.AnonymousAgent != nil {
		known.Agents = append(known.Agents, cfg.AnonymousAgent.DID)
	}
	known.Servers = slices.AppendSeq([]string{}, maps.Keys(cfg.MCPServers))
	known.Address = func(at string) error {
		_, err := cfg.Addresses.Describe(at)
		return err
	}
	return known
}

// stepRing returns the ring that a step needs by what the configuration says of its action. What it says nothing of is not
// reversible; a function is as far as its undo goes.
func stepRing(cfg *config.Config, s *saga.Step) ring.Ring {
	d := action.Descriptor{ID: "step"}
	if at, err := cfg.Addresses.Describe(s.Execute); err == nil {
		d = at
	} else if server, tool, ok := s.Tool(); ok {
		d = action.Resolve(server+"."+tool, cfg.Claims(server, tool)...)
	} else if s.Undo != "" {
		d.Reversibility = action.Partial
	}
	return d.RequiredRing(d.Effective(action.ImageTaken))
}

// configuredRing returns the ring that an agent's σ gives, under the session's own floor.
func configuredRing(cfg *config.Config, did policy.DID) ring.Ring {
	sigma := ring.Newcomer
	agents := cfg.Agents
	if cfg.AnonymousAgent != nil {
		agents = append(slices.Clip(agents), *cfg.AnonymousAgent)
	}
	for _, a := range agents {
		if a.DID == did && a.Sigma != nil {
			sigma = *a.Sigma
		}
	}
	if least := cfg.Session.MinSigmaEff; least != nil && sigma < *least {
		return ring.Sandbox
	}
	return ring.ByScore(sigma)
}

func (g *globals) printSagaFile(f sagaFile) {
	for _, fault := range f.Faults {
		g.printf("%s:%d:%d: %s\n", f.File, fault.Line, fault.Col, fault.What)
	}
	if !f.OK {
		return
	}
	g.printf("%s: %s is sound: %s\n", f.File, f.Saga, count(f.Steps, "step", "steps"))
	for _, w := range f.Worst {
		standing := "stands in it or above"
		if w.Has > w.Needs {
			standing = fmt.Sprintf("stands in ring %d", w.Has)
		}
		g.printf("  %s needs ring %s for %s, and %s\n", string(w.Agent), fmt.Sprint(int(w.Needs)), w.Step, standing)
	}
}
