package passthrough

import (
	"context"
	"io"
	"os/exec"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Run starts a tool server and serves its tools on in and out until the client ends its input.
func Run(ctx context.Context, command *exec.Cmd, in io.ReadCloser, out io.WriteCloser) error {
	self := &mcp.Implementation{Name: "passthrough", Version: "1"}
	up, err := mcp.NewClient(self, nil).Connect(ctx, &mcp.CommandTransport{Command: command}, nil)
	if err != nil {
		return err
	}
	defer up.Close()
	server := mcp.NewServer(self, nil)
	for tool, err := range up.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		server.AddTool(tool, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return up.CallTool(ctx, &mcp.CallToolParams{Name: r.Params.Name, Arguments: r.Params.Arguments})
		})
	}
	return server.Run(ctx, &mcp.IOTransport{Reader: in, Writer: out})
}
