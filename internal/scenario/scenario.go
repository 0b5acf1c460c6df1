package scenario

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Update says that what is compared is to be written anew: go test's flag -update.
var Update = flag.Bool("update", false, "write what is compared anew")

// Play does one command and returns what it adds to the trace. An error ends the test.
type Play func(command string) (trace []string, err error)

// Run runs each script that a pattern names as a test of its own, twice, since a script gives one trace. Begin begins anew.
func Run(t *testing.T, pattern string, begin func(t *testing.T) Play) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := perform(t, string(script), begin)
			if *Update {
				if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			if difference := compare(file, got, string(script)); difference != "" {
				t.Fatal(difference)
			}
			if again := perform(t, string(script), begin); again != got {
				t.Error("a second run of the same script gave another trace")
			}
		})
	}
}

// perform returns the script with the traces that its commands give.
func perform(t *testing.T, script string, begin func(t *testing.T) Play) string {
	t.Helper()
	play := begin(t)
	var out strings.Builder
	var trace []string
	inTrace := false
	for line := range strings.SplitSeq(strings.TrimRight(script, "\n"), "\n") {
		switch {
		case inTrace && line != "":
			continue // what was there
		case inTrace:
			inTrace = false
		case line == "----":
			fmt.Fprintln(&out, line)
			for _, l := range trace {
				fmt.Fprintln(&out, l)
			}
			trace, inTrace = nil, true
			continue
		case line == "====":
			play = begin(t)
		case line != "" && !strings.HasPrefix(line, "#"):
			more, err := play(line)
			if err != nil {
				t.Fatalf("%s\n%v", line, err)
			}
			trace = append(trace, more...)
		}
		fmt.Fprintln(&out, line)
	}
	return out.String()
}

// compare returns where what came differs from what the script has; empty: nowhere.
func compare(file, got, script string) string {
	const shown = 3 // lines
	gots, wants := strings.Split(got, "\n"), strings.Split(script, "\n")
	for i := range max(len(wants), len(gots)) {
		if i >= len(wants) || i >= len(gots) || wants[i] != gots[i] {
			some := func(lines []string) string {
				return strings.Join(lines[min(i, len(lines)):min(i+shown, len(lines))], "\n      ")
			}
			return fmt.Sprintf("%s:%d (run with -update and review the difference)\n got: %s\nwant: %s", file, i+1, some(gots), some(wants))
		}
	}
	return ""
}
