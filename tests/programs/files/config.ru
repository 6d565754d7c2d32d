require "json"
count = 0
lock = Mutex.new
run lambda { |env|
  next [200, {}, ["pong"]] if env["PATH_INFO"] == "/ping"
  lock.synchronize { count += 1 }
  [200, { "content-type" => "application/json" }, [JSON.dump({ "count" => count, "words" => %w[a b c].map(&:to_sym).inspect })]]
}
