package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/audit"
)

// storeFormat is the format of the embedded store's file that this program writes, and the newest it reads.
const storeFormat = 1

// A versionInfo is what `version --json` answers.
type versionInfo struct {
	Version      string `json:"version"` // of the module; (devel) where it was built from a checkout
	Commit       string `json:"commit,omitempty"`
	Modified     bool   `json:"modified,omitempty"` // the checkout was not the commit's
	RecordFormat int    `json:"record_format"`
	StoreFormat  int    `json:"store_format"`
	Go           string `json:"go"`
	Platform     string `json:"platform"`
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version, commit and formats", Args: cobra.NoArgs,
		Example: "  hypervisor version\n  hypervisor version --json",
		RunE: func(*cobra.Command, []string) error {
			v := version()
			if g.json {
				return g.printJSON(v)
			}
			commit := v.Commit
			if v.Modified {
				commit += " and changes"
			}
			g.printf("hypervisor %s\n", v.Version)
			if commit != "" {
				g.printf("commit %s\n", commit)
			}
			g.printf("record format %d, store format %d, %s, %s\n", v.RecordFormat, v.StoreFormat, v.Go, v.Platform)
			return nil
		},
	}
}

func version() versionInfo {
	v := versionInfo{Version: "(unknown)", RecordFormat: audit.Version, StoreFormat: storeFormat, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
