package gateway

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxShownName bounds a tool's name as a hub shows it: clients drop whole lists for one that is longer or has a dot.
const maxShownName = 64

var (
	plainName   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	hashedName  = regexp.MustCompile(`_[0-9a-f]{16}$`)
	serverName  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$`)
	notInPlain  = regexp.MustCompile(`[^A-Za-z0-9_-]`)
	ownServer   = strings.TrimSuffix(ownPrefix, "__")
	reservedIDs = []string{"resources/list", "resources/read", "resources/templates/list", "resources/subscribe", "resources/unsubscribe",
		"prompts/list", "prompts/get", "completion/complete", "logging/setLevel", askInput, askModel, askRoots}
)

// shownName returns what the agent calls a server's tool or prompt. It depends on nothing but the two, and no two pairs have one
// name: a plain name is taken apart at its first "__", so a server whose own name would make that ambiguous gets hashed names;
// and a plain name that looks hashed is hashed itself.
func shownName(server, name string) string {
	full := server + "__" + name
	clear := !strings.Contains(server, "__") && !strings.HasSuffix(server, "_")
	if clear && plainName.MatchString(full) && !hashedName.MatchString(full) {
		return full
	}
	sum := sha256.Sum256([]byte(server + "\x00" + name))
	full = notInPlain.ReplaceAllString(full, "_")
	return fmt.Sprintf("%s_%x", full[:min(len(full), maxShownName-17)], sum[:8])
}

// mayBeTool reports whether a server may have a tool of that name: its requests that are no tools have ids of the same kind.
func mayBeTool(name string) bool {
	return toolName.MatchString(name) && !slices.Contains(reservedIDs, name)
}
