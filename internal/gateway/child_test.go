//go:build unix

package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"
)

// The test binary is its own tool server: started with this variable set, it is the one named.
const childVar = "GATEWAY_TEST_CHILD"

func TestMain(m *testing.M) {
	name := os.Getenv(childVar)
	if name == "" {
		goleak.VerifyTestMain(m)
		return
	}
	children := map[string]func(){
		"sdk":     sdkServer,
		"mirror":  mirrorServer,
		"raw":     func() { rawServer("") },
		"legacy":  func() { rawServer("silent on discover") },
		"silent":  func() { _, _ = bufio.NewReader(os.Stdin).ReadString(0) },
		"exits":   func() { os.Exit(3) },
		"curious": func() { _ = curious().Run(context.Background(), &mcp.StdioTransport{}) },
		"noisy":   func() { fmt.Println("Welcome to my server!"); rawServer("") },
		"board":   boardServer,
		"deaf":    deafServer,
		"nosy":    func() { _ = nosy().Run(context.Background(), &mcp.StdioTransport{}) },
		"orphan":  holdFIFO,
		"worker":  workingServer,
		"parent":  parentOfUpstream,
	}
	children[name]()
	os.Exit(0)
}

// child is the command that starts this binary as the named server.
func child(name string, env ...string) Command {
	return Command{Path: os.Args[0], Env: append(BasicEnvironment(os.Environ(), map[string]string{childVar: name, "GORACE": "atexit_sleep_ms=0"}), env...)}
}

// sdkServer is a well-behaved server built on the SDK.
func sdkServer() { _ = newSDKServer().Run(context.Background(), &mcp.StdioTransport{}) }

func newSDKServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "sdk", Version: "1"}, &mcp.ServerOptions{Instructions: "use with care", PageSize: 2})
	schema := json.RawMessage(`{"type":"object","properties":{"n":{"type":"integer"}},"additionalProperties":true}`)
	add := func(name string, h mcp.ToolHandler) {
		s.AddTool(&mcp.Tool{Name: name, Title: "T " + name, Description: "does " + name, InputSchema: schema,
			Annotations: &mcp.ToolAnnotations{ReadOnlyHint: name == "echo"}, Icons: []mcp.Icon{{Source: "data:,x"}}}, h)
	}
	text := func(t string) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: t}}}, nil
	}
	add("echo", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return text(string(r.Params.Arguments))
	})
	add("die", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		os.Exit(4)
		return nil, nil
	})
	add("fail", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		r, err := text("no such file")
		r.IsError = true
		return r, err
	})
	add("steps", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for i := range 50 {
			err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i), Total: 50, Message: "step"})
			if err != nil {
				return nil, err
			}
		}
		return text("done")
	})
	add("grow", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		add("grown", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) { return text("grown") })
		return text("ok")
	})
	add("ask", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		_, err := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: "sure?"})
		return text(fmt.Sprint("elicit: ", err))
	})
	return s
}

// rawServer writes by hand what the SDK would not.
func rawServer(mood string) {
	var seen []string
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var m struct {
			ID     json.RawMessage
			Method string
			Params struct {
				Name      string
				Arguments json.RawMessage
				Cursor    string
			}
			Result, Error json.RawMessage
		}
		if err := json.Unmarshal(bytes.ReplaceAll(line, []byte("\u2028"), nil), &m); err != nil {
			os.Exit(9)
		}
		seen = append(seen, m.Method+string(m.Error))
		reply := func(result string) { fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":%s}`+"\n", m.ID, result) }
		switch {
		case m.Method == "server/discover" && mood == "silent on discover":
		case m.Method == "initialize":
			reply(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"raw","version":"1"}}`)
		case m.Method == "tools/list":
			reply(rawTools)
		case m.Method == "tools/call":
			rawCall(m.Params.Name, m.ID, m.Params.Arguments, seen, reply)
		case len(m.ID) > 0 && m.Method != "":
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"unknown method"}}`+"\n", m.ID)
		}
	}
}

const rawTool = `{"name":%q,"x-unknown":{"n":12345678901234567890123},"inputSchema":{"type":"object"},"_meta":{"b":1,"a":2}}`

var rawTools = func() string {
	var defs []string
	for _, name := range []string{"odd", "args", "seen", "garbage", "huge", "mute", "sample", "refuse", "silly", "doubled", "bad name!", "odd"} {
		defs = append(defs, fmt.Sprintf(rawTool, name))
	}
	return `{"tools":[` + strings.Join(defs, ",") + `]}`
}()

const oddResult = `{"content":[{"type":"hologram","n":12345678901234567890123},{"type":"text","text":"<&>"}],"structuredContent":{"b":9007199254740993,"a":1.10},"_meta":{"x/y":1},"extra":[null]}`

func rawCall(name string, id, args json.RawMessage, seen []string, reply func(string)) {
	switch name {
	case "odd":
		reply(oddResult)
	case "args":
		text, _ := json.Marshal(string(args))
		reply(`{"content":[{"type":"text","text":` + string(text) + `}]}`)
	case "seen":
		text, _ := json.Marshal(strings.Join(seen, " "))
		reply(`{"content":[{"type":"text","text":` + string(text) + `}]}`)
	case "garbage":
		fmt.Println("panic: oh no")
	case "doubled":
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[],"content":[]}}`+"\n", id)
	case "huge":
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}`+"\n", id, strings.Repeat("x", 50<<20))
	case "sample":
		fmt.Println(`{"jsonrpc":"2.0","id":"s1","method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}`)
		fmt.Println(`{"jsonrpc":"2.0","id":"s2","method":"ping"}`)
		reply(`{"content":[]}`)
	case "refuse":
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32003,"message":"not today","data":{"x":1}}}`+"\n", id)
	case "silly":
		reply(`"not an object"`)
	case "mute":
	}
}

// deafServer shakes hands, then neither reads nor ends when asked to.
func deafServer() {
	in := bufio.NewReader(os.Stdin)
	line, _ := in.ReadString('\n')
	var m struct{ ID json.RawMessage }
	_ = json.Unmarshal([]byte(line), &m)
	fmt.Printf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"unknown method"}}`+"\n", m.ID)
	line, _ = in.ReadString('\n')
	_ = json.Unmarshal([]byte(line), &m)
	fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"deaf","version":"1"}}}`+"\n", m.ID)
	ignoreTerm()
	startOrphan()
	select {}
}

// startOrphan starts a child of the child that stays alive for as long as nobody kills it.
func startOrphan() {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childVar+"=orphan")
	if err := c.Start(); err != nil {
		os.Exit(8)
	}
}

// holdFIFO holds the FIFO open and never ends by itself.
func holdFIFO() {
	ignoreTerm()
	f, err := os.OpenFile(os.Getenv("FIFO"), os.O_WRONLY, 0)
	if err != nil {
		os.Exit(7)
	}
	fmt.Fprintln(f, "here")
	select {}
}

// parentOfUpstream runs an upstream until it is killed itself.
func parentOfUpstream() {
	u := NewUpstream("x", Command{Path: os.Args[0], Env: append(os.Environ(), childVar+"=orphan")}, nil)
	_ = u.Run(context.Background())
}
