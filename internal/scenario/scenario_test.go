package scenario

import (
	"strings"
	"testing"
)

// counting says each command with how many there were since the beginning.
func counting(*testing.T) Play {
	n := 0
	return func(command string) ([]string, error) {
		n++
		return []string{strings.Repeat("#", n) + command}, nil
	}
}

func TestATraceStandsBehindItsCommands(t *testing.T) {
	script := "# for the reader\na\nb\n----\nold\n\nc\n====\nd\n----\n"
	const want = "# for the reader\na\nb\n----\n#a\n##b\n\nc\n====\nd\n----\n###c\n#d\n"
	if got := perform(t, script, counting); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if difference := compare("f", want, want); difference != "" {
		t.Errorf("the same differs: %s", difference)
	}
	if difference := compare("f", want, script); !strings.HasPrefix(difference, "f:5 ") {
		t.Errorf("line 5 is another: %s", difference)
	}
	if difference := compare("f", want+"more\n", want); !strings.HasPrefix(difference, "f:14 ") {
		t.Errorf("what is longer is another: %s", difference)
	}
}
